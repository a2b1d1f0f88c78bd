package eviction

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestNextIsWhatIsEvicted compares Next with the order in which MakeRoom then
// evicts: small objects beyond their share first, then large ones and partial
// fills.
func TestNextIsWhatIsEvicted(t *testing.T) {
	const limit = 1000 * kib // the small segment's share is 250 KiB
	l := newTestLedger(limit)
	for i := range 50 { // 400 KiB
		fill(t, l, 8*kib, i)
	}
	fill(t, l, 100*kib, 101, 102, 103)
	if err := l.Reserve(100 * kib); err != nil {
		t.Fatal(err)
	}
	l.Park(name(104), 100*kib)
	l.Touch(name(101))
	var next []digest.Digest
	for o := range l.Next() {
		next = append(next, o.Digest)
		if small := o.Size == 8*kib; (o.Segment == Small) != small || o.Partial != (o.Digest == name(104)) {
			t.Errorf("%+v", o)
		}
		l.Touch(name(49)) // the ledger is not locked
	}
	if got := l.MakeRoom(limit - 252*kib); !slices.Equal(got, next) {
		t.Errorf("evicted\n%v, Next said\n%v", got, next)
	}
	for o := range l.Next() {
		t.Errorf("%+v is within the share of the small segment", o)
	}
}

func TestNextIsEmptyDuringAdoption(t *testing.T) {
	l := newTestLedger(1000 * kib)
	l.BeginAdoption(100 * kib)
	l.Adopt(name(1), 40*kib, time.Now(), false)
	if got := slices.Collect(l.Next()); got != nil {
		t.Errorf("%v would be evicted before the order of use is known", got)
	}
	if s := l.Status(); s.Expected != 60*kib || s.Used() != 100*kib {
		t.Errorf("%+v; want 60 KiB expected and 100 used", s)
	}
}

// TestStatusUnderLoad reads the ledger while fills and evictions run: no
// reading exceeds the budget, and at the end the sums are right.
func TestStatusUnderLoad(t *testing.T) {
	const limit = 2000 * kib
	l := newTestLedger(limit)
	var load, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if s := l.Status(); s.Used() > limit || s.Reserved < 0 || s.Evicted < 0 {
					t.Errorf("%+v", s)
					return
				}
				for o := range l.Next() {
					if o.Size == 0 || o.Digest == "" {
						t.Errorf("%+v", o)
					}
				}
			}
		})
	}
	for worker := range 4 {
		load.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 500 {
				size := 1 + random.Int64N(100*kib)
				l.MakeRoomAndFree(size)
				if l.Reserve(size) == nil {
					l.Commit(name(1000*worker+i), size, size)
				}
				l.Touch(name(1000*worker + random.IntN(i+1)))
			}
		})
	}
	load.Wait()
	close(stop)
	readers.Wait()
	s := l.Status()
	count, bytes := 0, int64(0)
	for o := range l.Objects() {
		count++
		bytes += onDisk(o.Size)
	}
	if objects, held := s.Held(); objects != count || held != bytes || s.Reserved != 0 {
		t.Errorf("%+v; %d objects of %d bytes are held", s, count, bytes)
	}
	if shares := s.Segments[Small].Share + s.Segments[Large].Share; shares != limit || s.Segments[Small].Share != limit/4 {
		t.Errorf("shares %+v", s.Segments)
	}
}
