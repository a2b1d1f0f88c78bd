package cache

import (
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hubcap/e2e/testkit"
)

// TestDegradedSince shows that each problem keeps the time at which it began,
// whatever other problems come and go.
func TestDegradedSince(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	r := newRig(t, rigOptions{change: func(o *Options) { o.Now = clock.Now }})
	begin := clock.Now()
	r.unseen.Store(true)
	r.lookAtDisk()
	clock.Advance(time.Minute)
	r.writeFailed(unix.EIO)
	r.lookAtDisk()
	want := []Degradation{{ProblemWrites, begin.Add(time.Minute)}, {ProblemReads, begin}}
	if got := r.Status().Degraded; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	clock.Advance(writesProblem)
	r.lookAtDisk()
	if got := r.Status().Degraded; !slices.Equal(got, want[1:]) {
		t.Errorf("%v, want %v", got, want[1:])
	}
	r.unseen.Store(false)
	r.lookAtDisk()
	if got := r.Status().Degraded; len(got) != 0 {
		t.Errorf("%v, want none", got)
	}
}

// TestStatusOfFillsAndFiles follows a fill that waits for its source, and a
// reader of a held file that is evicted while it is open.
func TestStatusOfFillsAndFiles(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(960, 100*kib)
	hangs := make(chan struct{})
	source := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) { return gate{in, hangs}, nil }}
	var pulled sync.WaitGroup
	pulled.Go(func() { pull(t, r, Want{Digest: d, Source: source, Size: int64(len(body))}, body) })
	eventually(t, "the fill has a reader", func() bool { return r.Status().OpenFiles == 1 })
	if s := r.Status(); s.FillsRunning != 1 || s.FillsWaiting != 0 || s.Walking {
		t.Errorf("%+v", s)
	}
	close(hangs)
	pulled.Wait()
	eventually(t, "the fill ends", func() bool { return r.Status().FillsRunning == 0 })
	b, held, err := r.Held(Want{Digest: d})
	if !held || err != nil {
		t.Fatal(held, err)
	}
	r.o.Ledger.Evict(d)
	r.Remove(d)
	if s, l := r.Status(), r.o.Ledger.Status(); s.OpenFiles != 1 || l.Evicted == 0 {
		t.Errorf("%+v, %+v: the unlinked file is open", s, l)
	}
	b.Close()
	if s, l := r.Status(), r.o.Ledger.Status(); s.OpenFiles != 0 || l.Evicted != 0 {
		t.Errorf("%+v, %+v: the file is closed", s, l)
	}
}

// TestStatusUnderLoad reads the status and scrapes the metrics while blobs are
// filled, verified, read and evicted.
func TestStatusUnderLoad(t *testing.T) {
	const limit = 4 * mib
	r := newRig(t, rigOptions{limit: limit})
	stop := make(chan struct{})
	var load, readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if s := r.Status(); s.FillsRunning < 0 || s.FillsWaiting < 0 || s.OpenFiles < 0 {
					t.Errorf("%+v", s)
				}
				if used := r.o.Ledger.Status().Used(); used > limit {
					t.Errorf("%d bytes used", used)
				}
				for o := range r.o.Ledger.Next() {
					r.Has(Want{Digest: o.Digest}) // takes locks of the cache and of the ledger
				}
				if _, ok := r.o.Metrics.Value("hubcap_cache_bytes", "what", "large"); !ok {
					t.Error("the state is not exported")
				}
			}
		})
	}
	for worker := range 3 {
		load.Go(func() {
			for i := range 20 {
				body, d := randomContent(uint64(1000+20*worker+i), 300*kib)
				pull(t, r, Want{Digest: d, Source: &origin{body: body}, Size: int64(len(body))}, body)
				_ = r.check(d, 0).wait(t.Context())
				if i%5 == 0 {
					r.scrubRound(t.Context())
				}
			}
		})
	}
	load.Wait()
	r.settle()
	close(stop)
	readers.Wait()
	eventually(t, "all files are closed", func() bool {
		s := r.Status()
		return s.OpenFiles == 0 && s.FillsRunning == 0 && s.FillsWaiting == 0
	})
	for o := range r.o.Ledger.Objects() {
		if !o.Partial && !r.Has(Want{Digest: o.Digest}) {
			t.Errorf("%s is counted and not held", o.Digest)
		}
	}
	r.checkLedger()
}

// TestCapacityIsExported asks for one blob: then a scrape says what a larger cache
// would answer.
func TestCapacityIsExported(t *testing.T) {
	r := newRig(t, rigOptions{limit: 64 * mib})
	_, d := randomContent(1, 1)
	ratio := func() (float64, bool) {
		return r.o.Metrics.Value("hubcap_capacity_hit_ratio", "of", "requests", "scale", "2")
	}
	for i := range 100 {
		if _, known := ratio(); known != (i > 0) {
			t.Fatalf("known after %d requests: %v", i, known)
		}
		r.Looked(d, mib, i > 0, false)
	}
	if got, _ := ratio(); got < 0.98 || got > 1 {
		t.Errorf("%v of the requests, want 0.99", got)
	}
	if _, ok := r.o.Metrics.Value("hubcap_cache_budget_bytes"); !ok {
		t.Error("the other states are gone")
	}
}
