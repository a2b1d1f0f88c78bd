package cache

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestPlanGivesOutEveryByteOnce drives writers and readers at random, some of
// whom cut others short, and counts what each writer brings.
func TestPlanGivesOutEveryByteOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		size := rnd.Int64N(60*mib) + 1
		off := rnd.Int64N(size)
		first := &task{off: off, end: min(off+rnd.Int64N(maxPiece)+1, size)}
		p := newPlan(size, pieceOf(size, 1+rnd.IntN(8)), first)
		var brought spans
		var total int64
		now := time.Now()
		writers := []*task{first}
		for len(writers) > 0 {
			i := rnd.IntN(len(writers))
			w := writers[i]
			if rnd.IntN(8) == 0 {
				if cut := p.urgent(rnd.Int64N(size), now); cut != nil {
					writers = append(writers, cut)
				}
			}
			step := min(w.end-w.off, rnd.Int64N(mib))
			if w.begun.IsZero() {
				w.begun, w.from = now, w.off
			}
			now = now.Add(time.Duration(step/100) * time.Microsecond)
			brought.add(span{w.off, w.off + step})
			total += step
			w.off += step
			if w.off < w.end {
				continue
			}
			p.done(w)
			if next := p.next(map[int64]int{rnd.Int64N(size): 1}); next != nil {
				writers[i] = next
			} else {
				writers = append(writers[:i], writers[i+1:]...)
			}
		}
		if brought.endFrom(0) != size || total != size {
			t.Fatalf("%d bytes brought of %d, the first gap at %d", total, size, brought.endFrom(0))
		}
	}
}

func TestPlanServesWaitingReadersFirst(t *testing.T) {
	first := &task{off: 0, end: 8 * mib}
	p := newPlan(100*mib, 8*mib, first)
	if got := p.next(map[int64]int{50 * mib: 2, 4 * mib: 1}); got.off != 50*mib || got.end != 58*mib {
		t.Errorf("%+v, want the piece at 50 MiB: the one at 4 MiB is on its way", got)
	}
	if got := p.next(nil); got.off != 8*mib {
		t.Errorf("%+v, want the first that nobody has taken", got)
	}
}

func TestPlanCutsAWriterThatIsTooFarAway(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name  string
		speed int64 // bytes a second of the writer so far
		at    int64 // where the reader waits, from the writer on
		cut   bool
	}{
		{"near", 40e6, mib, false},
		{"far", 40e6, 4 * mib, true},
		{"far, and fast", 400e6, 4 * mib, false},
		{"near, and slow", 1e6, mib, true},
	} {
		w := &task{off: tc.speed, end: tc.speed + 8*mib, begun: now.Add(-time.Second)}
		p := newPlan(w.end, 8*mib, w)
		p.free = nil
		got := p.urgent(w.off+tc.at, now)
		if (got != nil) != tc.cut {
			t.Errorf("%s: cut %v", tc.name, got != nil)
		}
		if got != nil && (w.end != got.off || got.end != tc.speed+8*mib) {
			t.Errorf("%s: %+v and %+v", tc.name, w, got)
		}
	}
}
