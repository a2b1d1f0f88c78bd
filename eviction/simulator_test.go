package eviction

import (
	"encoding/csv"
	"errors"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// These are the options of the ledger in service.
const (
	simulatedSmallSize  = 1 << 20
	simulatedSmallShare = 0.05
	simulatedHigh       = 0.98
	simulatedLow        = 0.95
)

// tolerance is how far a replay may be from its figures. It is the same each
// time, so that one pull more or less shows.
const tolerance = 0.0001

// maxLoss is how much of the byte hit ratio keeping small objects apart may cost.
const maxLoss = 0.015

// pull is one request of a trace.
type pull struct {
	digest digest.Digest
	size   int64
}

// figures is the result of a replay.
type figures struct {
	objects float64 // share of the pulls that were held
	bytes   float64 // share of the bytes pulled that were
}

// The trace that the figures below are of: 45 minutes of a production
// registry (IBM's at Dallas, 20 June 2017), as a replay of it logged them.
const (
	tracePulls   = 3337
	traceObjects = 1261
)

// TestSimulator replays a production trace through the ledger and, beside it,
// through one plain list. The working set is the sum of the sizes of all
// objects that a client GETs, each once.
func TestSimulator(t *testing.T) {
	pulls, objects, workingSet := readTrace(t)
	t.Logf("%d pulls of %d objects, %d bytes", len(pulls), objects, workingSet)
	if len(pulls) != tracePulls || objects != traceObjects {
		t.Fatalf("the figures are of another trace: %d pulls of %d objects", tracePulls, traceObjects)
	}
	for _, tc := range []struct {
		name         string
		share        float64 // of the working set
		list, ledger figures
	}{
		{"5 %", 0.05, figures{0.4369, 0.3080}, figures{0.5601, 0.3104}},
		{"10 %", 0.10, figures{0.5301, 0.3918}, figures{0.5886, 0.3787}},
		{"20 %", 0.20, figures{0.5796, 0.4527}, figures{0.6098, 0.4457}},
		{"40 %", 0.40, figures{0.6071, 0.4859}, figures{0.6188, 0.4887}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			limit := int64(tc.share * float64(workingSet))
			list, ledger := replay(pulls, throughList(t, limit)), replay(pulls, throughLedger(limit))
			t.Logf("object hit ratio: one list %.4f, ledger %.4f; byte hit ratio: one list %.4f, ledger %.4f",
				list.objects, ledger.objects, list.bytes, ledger.bytes)
			if !list.near(tc.list) {
				t.Errorf("one list: %+.4v, want %+v", list, tc.list)
			}
			if !ledger.near(tc.ledger) {
				t.Errorf("ledger: %+.4v, want %+v", ledger, tc.ledger)
			}
			if ledger.objects <= list.objects || ledger.bytes < list.bytes-maxLoss {
				t.Error("a segment for small objects does not pay")
			}
		})
	}
}

func (f figures) near(want figures) bool {
	return math.Abs(f.objects-want.objects) <= tolerance && math.Abs(f.bytes-want.bytes) <= tolerance
}

// readTrace reads the pulls of a CSV file with the columns time, op, digest,
// size. A digest has one content and thus one size, the largest one logged: an
// answer may have been broken off.
func readTrace(t *testing.T) (pulls []pull, objects int, workingSet int64) {
	t.Helper()
	const variable = "TEST_TRACE"
	file := os.Getenv(variable)
	if file == "" {
		t.Skipf("%s is not set: it names a CSV file of pulls with the columns time, op, digest, size", variable)
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s: %v", variable, err)
	}
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) == 0 {
		t.Fatalf("%s=%s: %d rows, %v", variable, file, len(rows), err)
	}
	sizes := make(map[digest.Digest]int64)
	for _, row := range rows[1:] {
		if !strings.HasPrefix(row[1], "GET") {
			continue
		}
		size, err := strconv.ParseInt(row[3], 10, 64)
		if err != nil {
			t.Fatalf("%s=%s: %v", variable, file, err)
		}
		d := digest.FromString(row[2])
		sizes[d] = max(sizes[d], size)
		pulls = append(pulls, pull{digest: d})
	}
	for i := range pulls {
		pulls[i].size = sizes[pulls[i].digest]
	}
	for _, size := range sizes {
		workingSet += size
	}
	return pulls, len(sizes), workingSet
}

// replay requests one object after the other: a fill has ended before the next pull begins.
func replay(pulls []pull, ask func(pull) (held bool)) figures {
	var hits, hitBytes, bytes float64
	for _, p := range pulls {
		bytes += float64(p.size)
		if ask(p) {
			hits++
			hitBytes += float64(p.size)
		}
	}
	return figures{objects: hits / float64(len(pulls)), bytes: hitBytes / bytes}
}

// throughLedger uses the ledger as the cache does, with a janitor that is never late.
func throughLedger(limit int64) func(pull) bool {
	l := NewLedger(LedgerOptions{
		Limit: limit, SmallSize: simulatedSmallSize, SmallShare: simulatedSmallShare,
		High: simulatedHigh, Low: simulatedLow, Now: time.Now, Metrics: metrics.New().Space,
	})
	j := newTestJanitor(l, math.MaxInt64, l.unlinkNow)
	return func(p pull) bool {
		if _, held := l.Touch(p.digest); held {
			return true
		}
		if j.Reserve(p.size) == nil { // else it is streamed through
			l.Commit(p.digest, p.size, p.size)
		}
		j.remove(l.Sweep())
		return false
	}
}

// throughList asks one list of all objects, as full as it may be.
func throughList(t *testing.T, limit int64) func(pull) bool {
	t.Helper()
	list, err := simplelru.NewLRU[digest.Digest, int64](math.MaxInt, nil)
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	return func(p pull) bool {
		if _, held := list.Get(p.digest); held {
			return true
		}
		size := onDisk(p.size)
		if size > limit {
			return false
		}
		for used+size > limit {
			_, gone, _ := list.RemoveOldest()
			used -= gone
		}
		list.Add(p.digest, size)
		used += size
		return false
	}
}
