package eviction

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// TestBoxesAddUp compares four boxes of a site with one box that is as large as all of
// them: of the bytes that clients ask for, they fetch at most two points more from
// registries, and far less than four boxes that do not know each other. The pulls are
// those of TEST_TRACE, if it is set, and synthetic ones of few large layers, of which the
// room for guests costs one point and a half more.
func TestBoxesAddUp(t *testing.T) {
	traces, most := map[string][]pull{"synthetic": syntheticPulls()}, map[string]float64{"synthetic": 0.035, "TEST_TRACE": 0.02}
	if os.Getenv("TEST_TRACE") != "" {
		traces["TEST_TRACE"], _, _ = readTrace(t)
	}
	const boxes = 4
	for name, pulls := range traces {
		sizes := make(map[digest.Digest]int64)
		var all int64
		for _, p := range pulls {
			sizes[p.digest] = p.size
		}
		for _, size := range sizes {
			all += size
		}
		for _, share := range []float64{0.05, 0.2} {
			limit := int64(share * float64(all))
			one := 1 - replay(pulls, throughLedger(boxes*limit)).bytes
			site := newSimulatedSite(boxes, limit, true)
			together, lan := 1-replay(pulls, site.ask).bytes, site.lan/site.asked
			apart := 1 - replay(pulls, newSimulatedSite(boxes, limit, false).ask).bytes
			t.Logf("%s, boxes of %.0f %%: from registries %.1f %% by one large box, %.1f %% by the site (%.0f %% between its boxes), %.1f %% by four that do not know each other",
				name, 100*share, 100*one, 100*together, 100*lan, 100*apart)
			if together > one+most[name] || together > apart {
				t.Error("the disks of the boxes do not add up")
			}
		}
	}
}

// syntheticPulls are of layers whose popularity falls as Zipf's law says.
func syntheticPulls() (pulls []pull) {
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 8, 4000)
	for range 40_000 {
		n := zipf.Uint64()
		size := int64(math.Exp(rand.New(rand.NewPCG(n, 3)).NormFloat64()*1.5 + 15))
		pulls = append(pulls, pull{digest.FromString(fmt.Sprint(n)), size})
	}
	return pulls
}

// simulatedSite is boxes that clients ask at random.
type simulatedSite struct {
	ledgers    []*Ledger
	janitors   []*Janitor
	known      bool // they know each other
	random     *rand.Rand
	lan, asked float64 // bytes between boxes, and to clients
}

func newSimulatedSite(n int, limit int64, known bool) *simulatedSite {
	s := &simulatedSite{known: known, random: rand.New(rand.NewPCG(4, 5))}
	for i := range n {
		l := NewLedger(LedgerOptions{
			Limit: limit, SmallSize: simulatedSmallSize, SmallShare: simulatedSmallShare,
			High: simulatedHigh, Low: simulatedLow, Now: time.Now, Metrics: metrics.New().Space,
		})
		if known {
			l.SetGuests(func(d digest.Digest) bool { return ownerOf(d, n) != i })
		}
		s.ledgers = append(s.ledgers, l)
		s.janitors = append(s.janitors, newTestJanitor(l, math.MaxInt64, l.unlinkNow))
	}
	return s
}

func ownerOf(d digest.Digest, n int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(d))
	return int(h.Sum64() % uint64(n))
}

// ask pulls at one of the boxes. held reports whether no registry was asked.
func (s *simulatedSite) ask(p pull) (held bool) {
	entry := s.random.IntN(len(s.ledgers))
	s.asked += float64(p.size)
	if _, held := s.ledgers[entry].Touch(p.digest); held {
		return true
	}
	owner := ownerOf(p.digest, len(s.ledgers))
	if s.known && owner != entry {
		s.lan += float64(p.size)
		if _, held = s.ledgers[owner].Touch(p.digest); !held {
			s.keep(owner, p)
		}
	}
	s.keep(entry, p)
	return held
}

// keep stores what a box has fetched.
func (s *simulatedSite) keep(i int, p pull) {
	if s.janitors[i].ReserveFor(p.digest, p.size) == nil {
		s.ledgers[i].Commit(p.digest, p.size, p.size)
	}
	s.janitors[i].remove(s.ledgers[i].Sweep())
}
