package eviction

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func (l *Ledger) pinOnly(ids ...int) {
	l.SetPinned(func(yield func(digest.Digest) bool) {
		for _, i := range ids {
			if !yield(name(i)) {
				return
			}
		}
	})
}

// free gives the bytes of what was evicted back at once, as a janitor does.
func (l *Ledger) free(evicted []digest.Digest) {
	for _, d := range evicted {
		l.unlinkNow(d)
	}
}

// TestPinnedIsNotEvicted tries every way of making room.
func TestPinnedIsNotEvicted(t *testing.T) {
	for what, evict := range map[string]func(l *Ledger) []digest.Digest{
		"MakeRoom": func(l *Ledger) []digest.Digest { return l.MakeRoom(800 * kib) },
		"Sweep": func(l *Ledger) []digest.Digest {
			l.high, l.low = 0, 0
			return l.Sweep()
		},
		"Shrink": func(l *Ledger) []digest.Digest { return l.Shrink(1000 * kib) },
	} {
		t.Run(what, func(t *testing.T) {
			l := newTestLedger(1000 * kib)
			fill(t, l, 100*kib, 1, 2, 3)
			fill(t, l, 4*kib, 4, 5)
			l.pinOnly(1, 4, 6)
			fill(t, l, 92*kib, 6) // pinned before it was there
			if got := l.Status(); got.Pinned != (SegmentStatus{Objects: 3, Bytes: 196 * kib}) || got.Used() != 400*kib {
				t.Errorf("%+v", got)
			}
			evict(l)
			for i, want := range map[int]bool{1: true, 2: false, 3: false, 4: true, 6: true} {
				if l.Holds(name(i)) != want {
					t.Errorf("object %d: held is %v", i, !want)
				}
			}
		})
	}
}

// TestPinnedTakesRoom shows that what cannot be evicted is not promised to others.
func TestPinnedTakesRoom(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2, 3, 4, 5)
	if got := l.Evictable(); got != 500*kib {
		t.Errorf("evictable %d", got)
	}
	l.pinOnly(1, 2, 3, 4)
	if err := l.Fits(600 * kib); err != nil {
		t.Error(err)
	}
	if err := l.Fits(604 * kib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("beside 400 of 1000 KiB that are pinned: %v", err)
	}
	if got := l.Evictable(); got != 100*kib {
		t.Errorf("evictable %d", got)
	}
	for o := range l.Next() {
		if o.Pinned || o.Digest != name(5) {
			t.Errorf("next is %+v", o)
		}
	}
}

// TestUnpinned returns to the order of eviction, after what is held already.
func TestUnpinned(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2, 3)
	l.pinOnly(1, 2)
	l.pinOnly(2)
	if got, want := l.MakeRoom(900*kib), []digest.Digest{name(3), name(1)}; !slices.Equal(got, want) || l.Status().Pinned.Objects != 1 {
		t.Errorf("evicted %v, want %v", got, want)
	}
	if l.Pinned(name(1)) || !l.Pinned(name(2)) {
		t.Error("the wrong one is pinned")
	}
}

// TestPinOutlivesItsContent: content that is wrong is evicted by name, and pinned
// again once it was fetched again. A partial fill of it is kept meanwhile.
func TestPinOutlivesItsContent(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1)
	l.pinOnly(1)
	if !l.Evict(name(1)) || l.Status().Pinned.Objects != 0 || !l.Pinned(name(1)) {
		t.Fatalf("%+v", l.Status())
	}
	l.unlinkNow(name(1))
	if err := l.Reserve(100 * kib); err != nil {
		t.Fatal(err)
	}
	l.Park(name(1), 100*kib)
	if l.Shrink(1000 * kib); l.Status().Partial != 100*kib {
		t.Error("the partial fill was evicted")
	}
	if _, ok := l.Resume(name(1)); !ok {
		t.Fatal("no partial fill")
	}
	l.Commit(name(1), 100*kib, 100*kib)
	if l.Shrink(1000 * kib); !l.Holds(name(1)) || l.Status().Pinned.Objects != 1 {
		t.Errorf("%+v", l.Status())
	}
}

// TestNothingIsEvictedBeforeThePinsAreKnown: the adoption may end earlier than it
// is known what is pinned.
func TestNothingIsEvictedBeforeThePinsAreKnown(t *testing.T) {
	l := newTestLedger(1000 * kib)
	l.AwaitPins()
	l.BeginAdoption(0)
	for i := range 13 { // more than the limit, which was lowered
		l.Adopt(name(i), 100*kib, time.Unix(int64(i), 0), false)
	}
	l.EndAdoption()
	if got := append(append(l.Sweep(), l.MakeRoom(4*kib)...), l.Shrink(100*kib)...); len(got) != 0 || l.Evictable() != 0 {
		t.Fatalf("evicted %v", got)
	}
	if err := l.Fits(4 * kib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("fits: %v", err)
	}
	l.pinOnly(0, 1)
	l.free(l.Sweep())
	if !l.Holds(name(0)) || !l.Holds(name(1)) || l.Holds(name(2)) || l.Status().Used() > 1000*kib {
		t.Errorf("%+v", l.Status())
	}
}

// TestPinsAgainstModel drives random operations: nothing pinned is evicted to make
// room, the limit holds, and the sums are those of a plain map.
func TestPinsAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	const limit = 4096 * kib
	l := newTestLedger(limit)
	l.high, l.low = limit*9/10, limit*7/10
	held, pinned := map[digest.Digest]int64{}, map[digest.Digest]bool{}
	gone := func(what string, evicted []digest.Digest) {
		for _, d := range evicted {
			if pinned[d] {
				t.Fatalf("%s evicted the pinned %s", what, d)
			}
			delete(held, d)
		}
		l.free(evicted)
	}
	for range 20_000 {
		d, size := name(random.IntN(500)), random.Int64N(100*kib)
		switch random.IntN(8) {
		case 0, 1, 2:
			gone("MakeRoom", l.MakeRoom(size))
			if _, there := held[d]; !there && l.Reserve(size) == nil {
				l.Commit(d, size, size)
				held[d] = size
			}
		case 3:
			gone("Sweep", l.Sweep())
		case 4:
			gone("Shrink", l.Shrink(size))
		case 5:
			l.Touch(d)
		case 6:
			l.Evict(d)
			l.unlinkNow(d)
			delete(held, d)
		case 7:
			for range random.IntN(10) {
				if other := name(random.IntN(500)); random.IntN(2) == 0 {
					pinned[other] = true
				} else {
					delete(pinned, other)
				}
			}
			l.SetPinned(maps.Keys(pinned))
		}
		checkPins(t, l, held, pinned, limit)
	}
}

func checkPins(t *testing.T, l *Ledger, held map[digest.Digest]int64, pinned map[digest.Digest]bool, limit int64) {
	t.Helper()
	var all, kept int64
	for d, size := range held {
		all += onDisk(size)
		if pinned[d] {
			kept += onDisk(size)
		}
	}
	s := l.Status()
	if _, bytes := s.Held(); bytes != all || s.Pinned.Bytes != kept || s.Used() != all || all > limit {
		t.Fatalf("%+v; want %d bytes held, %d of them pinned, below %d", s, all, kept, limit)
	}
}

// BenchmarkSetPinned sets 100,000 digests that are pinned already.
func BenchmarkSetPinned(b *testing.B) {
	l := newTestLedger(1 << 40)
	all := make([]digest.Digest, 100_000)
	for i := range all {
		all[i] = digest.FromString(fmt.Sprint(i))
		l.Adopt(all[i], 5<<20, time.Now(), false)
	}
	for b.Loop() {
		l.SetPinned(slices.Values(all))
	}
}
