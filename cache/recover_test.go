package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/eviction"
)

// TestServingBesideTheWalk shows that blobs are served before all files are counted: a
// requested blob is looked for on disk, and not fetched again.
func TestServingBesideTheWalk(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	bodies := make(map[digest.Digest][]byte)
	for seed := range uint64(200) {
		body, d := randomContent(500+seed, 5*kib)
		bodies[d] = body
		r.mustGet(d, &origin{body: body}, body)
	}
	r.stop()
	r = newRig(t, rigOptions{dir: dir, change: func(o *Options) { o.StartWithin = time.Nanosecond }})
	for d, body := range bodies {
		src := &origin{body: body}
		if from := r.mustGet(d, src, body); from != Held || src.opens.Load() != 0 {
			t.Fatalf("%s comes from %d, %d openings of its source", d, from, src.opens.Load())
		}
	}
	<-r.walked
	r.checkLedger()
	if n := r.o.Ledger.Status().Segments[eviction.Large].Objects; n != len(bodies) {
		t.Errorf("%d objects, want %d", n, len(bodies))
	}
}

// hold is a log that blocks everyone who writes to it until it is closed.
type hold struct {
	slog.Handler
	says string
	met  chan struct{} // closed when somebody is held
	pass chan struct{}
}

func (h hold) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, h.says) {
		close(h.met)
		<-h.pass
	}
	return h.Handler.Handle(ctx, r)
}

// TestStopInTheMiddleOfTheWalk ends the process before all files are counted: the next
// start still expects the total from before.
func TestStopInTheMiddleOfTheWalk(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	var all []digest.Digest
	for seed := range uint64(50) {
		body, d := randomContent(900+seed, 5*kib)
		r.mustGet(d, &origin{body: body}, body)
		all = append(all, d)
	}
	r.settle()
	r.stop()
	slices.Sort(all)
	middle := all[len(all)/2].Encoded()
	if err := os.Truncate(filepath.Join(dir, "blobs", "open", "sha256", middle[:2], middle), 1); err != nil {
		t.Fatal(err)
	}
	h := hold{slog.NewTextHandler(io.Discard, nil), "another length", make(chan struct{}), make(chan struct{})}
	r = newRig(t, rigOptions{dir: dir, change: func(o *Options) { o.StartWithin, o.Log = time.Nanosecond, slog.New(h) }})
	select {
	case <-h.met:
	case <-r.walked:
		t.Fatal("the walk was not held")
	}
	go func() {
		<-r.base.Done()
		close(h.pass)
	}()
	r.Close()
	total, known, err := r.o.Index.Total()
	if want := int64(len(all) * 8 * kib); err != nil || !known || total != want {
		t.Errorf("the next start expects %d bytes, %v, %v; want %d", total, known, err, want)
	}
}

// TestNoteThatLies flips a bit in the note of a partial fill, so that it gives a larger
// size than any stored blob has. Only the partial fill is lost.
func TestNoteThatLies(t *testing.T) {
	for _, size := range []int64{9 * partialSize, math.MaxInt64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			o := rigOptions{dir: dir, limit: 4 * partialSize, maxBlob: 2 * partialSize}
			r := newRig(t, o)
			held, d := randomContent(1, mib)
			r.mustGet(d, &origin{body: held}, held)
			body, cut := randomContent(301, partialSize)
			r.leave(cut, body)
			r.stop()
			note := filepath.Join(dir, "partial", "sha256-"+cut.Encoded()+".note")
			text, err := os.ReadFile(note)
			if err != nil {
				t.Fatal(err)
			}
			lie := strings.Replace(string(text), fmt.Sprint(partialSize), fmt.Sprint(size), 1)
			if err := os.WriteFile(note, []byte(lie), 0o600); err != nil {
				t.Fatal(err)
			}
			r = newRig(t, o)
			r.janitor.Wake()
			if s := r.o.Ledger.Status(); s.Partial != 0 || s.Segments[eviction.Large].Bytes != mib {
				t.Errorf("%+v; want what is held and nothing else", s)
			}
			if going := r.o.Ledger.Sweep(); len(going) > 0 {
				t.Errorf("%v is evicted", going)
			}
			r.checkLedger()
		})
	}
}

// TestWalkThatCannotSeeAll shows that nothing is forgotten about files that cannot be
// seen: they may be visible at the next start.
func TestWalkThatCannotSeeAll(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(77, 5*kib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	r.stop()
	file := filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2], d.Encoded())
	stray := filepath.Join(dir, "blobs", "open", "sha256", "stray")
	if err := errors.Join(os.Rename(file, filepath.Join(dir, "away")), os.WriteFile(stray, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", stray).CombinedOutput(); err != nil {
		t.Skipf("no file that cannot be removed: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("chattr", "-i", stray).Run() })
	r = newRig(t, rigOptions{dir: dir})
	known := false
	if err := r.o.Index.Verified(d.String(), func(digest.Digest, index.Verified) { known = true }); err != nil || !known {
		t.Errorf("the index knows the blob: %v, %v", known, err)
	}
}

// The garbage collector is the whole process's: a walk over few files leaves it
// alone.
func TestFewFilesLeaveTheCollectorAlone(t *testing.T) {
	forced := func() uint32 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.NumForcedGC
	}
	before := forced()
	newRig(t, rigOptions{})
	if n := forced() - before; n != 0 {
		t.Errorf("%d collections were forced", n)
	}
}
