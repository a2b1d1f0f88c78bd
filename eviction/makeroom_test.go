package eviction

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// removerFunc is a Remover.
type removerFunc func(digest.Digest)

func (f removerFunc) Remove(d digest.Digest) { f(d) }

// unlinkNow unlinks and frees an evicted object, as a removal does.
func (l *Ledger) unlinkNow(d digest.Digest) {
	if size, evicted := l.Evicted(d); evicted {
		l.Unlinked(d)
		l.Freed(size)
	}
}

func newTestJanitor(l *Ledger, free int64, remove removerFunc) *Janitor {
	return NewJanitor(JanitorOptions{
		Ledger: l, Remover: remove, Log: slog.New(slog.DiscardHandler),
		Free: func() (int64, error) { return free, nil },
	})
}

// TestRoomIsTakenByAnother has another fill take the room that was made for this one, with
// more to evict.
func TestRoomIsTakenByAnother(t *testing.T) {
	l := newTestLedger(400 * kib)
	fill(t, l, 100*kib, 1, 2, 3, 4)
	stolen := false
	j := newTestJanitor(l, 1<<40, func(d digest.Digest) {
		l.unlinkNow(d)
		if !stolen {
			stolen = true
			if err := l.Reserve(100 * kib); err != nil {
				t.Errorf("the other: %v", err)
			}
		}
	})
	if err := j.Reserve(100 * kib); err != nil {
		t.Errorf("%v, with 300 KiB that could be evicted", err)
	}
}

// TestRoomIsOnItsWay has a fill need the space of objects that a sweep is still
// unlinking.
func TestRoomIsOnItsWay(t *testing.T) {
	l := NewLedger(LedgerOptions{Limit: 1000 * kib, SmallSize: kib, High: 0.95, Low: 0.5, Now: time.Now, Metrics: metrics.New().Space})
	fill(t, l, 96*kib, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	if got := l.Sweep(); len(got) == 0 { // the janitor's goroutine is about to unlink them
		t.Fatal("nothing swept")
	}
	j := newTestJanitor(l, 1<<40, l.unlinkNow)
	if err := j.Reserve(200 * kib); err != nil {
		t.Errorf("%v, with %d bytes evicted that no reader has open", err, l.Status().Evicted)
	}
}

// TestFloorThatCannotBeReachedEvictsNothing reserves for an object so large that the floor
// would be crossed whatever is evicted.
func TestFloorThatCannotBeReachedEvictsNothing(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2, 3)
	free := int64(500 * kib)
	j := newTestJanitor(l, 0, func(d digest.Digest) {
		size, _ := l.Evicted(d)
		l.unlinkNow(d)
		free += size
	})
	j.o.MinFree = 400 * kib
	j.o.Free = func() (int64, error) { return free, nil }
	if err := j.Reserve(600 * kib); !errors.Is(err, ErrNoRoom) {
		t.Fatalf("Reserve = %v, want ErrNoRoom", err)
	}
	if n, _ := l.Status().Held(); n != 3 {
		t.Errorf("%d objects of 3 left, and it was refused all the same", n)
	}
}

// TestFloorThatOthersCross has others fill the file system beyond the floor: the cache
// still evicts what it has.
func TestFloorThatOthersCross(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2, 3)
	free := int64(0)
	j := newTestJanitor(l, 0, func(d digest.Digest) {
		size, _ := l.Evicted(d)
		l.unlinkNow(d)
		free += size
	})
	j.o.MinFree, j.o.Interval = 400*kib, time.Hour
	j.o.Free = func() (int64, error) { return free, nil }
	j.o.Overhead = func() int64 { return 0 }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	j.Run(ctx) // once
	if free != 300*kib {
		t.Errorf("%d bytes freed of %d, while the file system is %d below its floor", free, 300*kib, 400*kib-free)
	}
}

// TestBudgetThatCannotBeReachedEvictsNothing reserves more than the budget has room for,
// where the floor could be kept.
func TestBudgetThatCannotBeReachedEvictsNothing(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2, 3)
	if err := l.Reserve(650 * kib); err != nil { // fills under way
		t.Fatal(err)
	}
	free := int64(500 * kib)
	j := newTestJanitor(l, 0, func(d digest.Digest) {
		size, _ := l.Evicted(d)
		l.unlinkNow(d)
		free += size
	})
	j.o.MinFree = 300 * kib
	j.o.Free = func() (int64, error) { return free, nil }
	if err := j.Reserve(400 * kib); !errors.Is(err, ErrNoRoom) {
		t.Fatalf("Reserve = %v, want ErrNoRoom", err)
	}
	if n, _ := l.Status().Held(); n != 3 {
		t.Errorf("%d objects of 3 left, and it was refused all the same", n)
	}
}

// TestShareThatIsInTheWayEvictsNothing reserves for a large object that does not fit beside
// the small segment's share.
func TestShareThatIsInTheWayEvictsNothing(t *testing.T) {
	l := newTestLedger(1000 * kib) // the small segment's share is 250 KiB
	for i := range 25 {
		fill(t, l, 8*kib, i)
	}
	fill(t, l, 100*kib, 101, 102, 103, 104, 105)
	j := newTestJanitor(l, 1<<40, l.unlinkNow)
	err := j.Reserve(900 * kib)
	if n, _ := l.Status().Held(); err != nil && n != 30 {
		t.Errorf("%d objects of 30 left, and it was refused all the same: %v", n, err)
	}
}

// TestFillsUnderWayAndTheSmallShare has running fills alone exceed the high watermark: the
// sweep evicts nothing of the small segment's share for them.
func TestFillsUnderWayAndTheSmallShare(t *testing.T) {
	l := newTestLedger(1000 * kib) // the small segment's share is 250 KiB
	l.high, l.low = 900*kib, 800*kib
	fill(t, l, 8*kib, 1, 2, 3, 4, 5)
	if err := l.Reserve(880 * kib); err != nil {
		t.Fatal(err)
	}
	if got := l.Sweep(); len(got) != 0 {
		t.Errorf("%d small objects were evicted, below their share and inside the budget", len(got))
	}
}

// TestSmallObjectsWithoutAShare has a small segment whose share is 0.
func TestSmallObjectsWithoutAShare(t *testing.T) {
	l := NewLedger(LedgerOptions{Limit: 400 * kib, SmallSize: 16 * kib, High: 1, Low: 0.75, Now: time.Now, Metrics: metrics.New().Space})
	fill(t, l, 100*kib, 1, 2, 3, 4)
	j := newTestJanitor(l, 1<<40, l.unlinkNow)
	if err := j.Reserve(8 * kib); err != nil {
		t.Errorf("%v, with 400 KiB that could be evicted", err)
	}
}

// TestEvictedTwice evicts a digest again before its first file could be unlinked: the bytes
// of both files are freed.
func TestEvictedTwice(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1)
	l.Evict(name(1)) // and its file cannot be unlinked
	fill(t, l, 100*kib, 1)
	l.Evict(name(1))
	l.unlinkNow(name(1))
	l.unlinkNow(name(1))
	if s := l.Status(); s.Evicted != 0 {
		t.Errorf("%d bytes never freed", s.Evicted)
	}
}

// TestEmptyObjects shows that objects of 0 bytes, which make no room, do not keep the
// eviction busy.
func TestEmptyObjects(t *testing.T) {
	l := newTestLedger(400 * kib)
	fill(t, l, 0, 1, 2, 3)
	if err := l.Reserve(400 * kib); err != nil {
		t.Fatal(err)
	}
	l.SetOverhead(4 * kib)
	l.Sweep()
	l.Shrink(1 << 40)
	l.MakeRoom(1)
	if s := l.Status(); s.Segments[Small].Bytes != 0 || s.Evicted != 0 {
		t.Errorf("%+v", s)
	}
}
