package fill

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestPlanGivesOutEveryByteOnce drives writers and readers at random, some of
// which cut tasks of others, and counts what each writer fetches.
func TestPlanGivesOutEveryByteOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		size := rnd.Int64N(60*mib) + 1
		off := rnd.Int64N(size)
		first := &task{off: off, end: min(off+rnd.Int64N(2*maxPiece)+1, size)}
		var there spans // what an earlier fill has left
		for range rnd.IntN(4) {
			from := rnd.Int64N(size)
			there.add(span{from, min(from+rnd.Int64N(20*mib), size)})
		}
		there.remove(span{first.off, first.end})
		p := newPlan(there.missing(size), pieceOf(size, 1+rnd.IntN(8)), time.Second, first)
		fetched, total := slices.Clone(there), there.bytes()
		now := time.Now()
		writers := []*task{first}
		for len(writers) > 0 {
			i := rnd.IntN(len(writers))
			w := writers[i]
			if rnd.IntN(8) == 0 {
				if rest, _ := p.urgent(rnd.Int64N(size), now); rest != nil {
					writers = append(writers, rest)
				}
			}
			if rnd.IntN(100) == 0 {
				p.share(rnd.Int64N(20 * mib))
			}
			if w.waiting.IsZero() {
				w.waiting, w.drop = now, func(error) {}
			}
			if p.stallAfter < time.Hour && rnd.IntN(4) == 0 {
				p.takeStalled(now)
			}
			off := w.off
			now = now.Add(time.Duration(rnd.IntN(10_000)) * time.Microsecond)
			step := int64(w.claim(off, rnd.IntN(mib), now))
			p.received = now
			fetched.add(span{off, off + step})
			total += step
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
		if fetched.endFrom(0) != size || total != size {
			t.Fatalf("%d bytes fetched of %d, the first gap at %d", total, size, fetched.endFrom(0))
		}
	}
}

func TestPlanServesWaitingReadersFirst(t *testing.T) {
	first := &task{off: 0, end: 8 * mib}
	p := newPlan(spans{{0, 100 * mib}}, 8*mib, time.Second, first)
	if got := p.next(map[int64]int{50 * mib: 2, 4 * mib: 1}); got.off != 50*mib || got.end != 58*mib {
		t.Errorf("%+v, want the piece at 50 MiB: the one at 4 MiB is on its way", got)
	}
	if got := p.next(nil); got.off != 8*mib {
		t.Errorf("%+v, want the first free piece", got)
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
		p := newPlan(spans{{0, w.end}}, 8*mib, time.Second, w)
		p.free = nil
		got, _ := p.urgent(w.off+tc.at, now)
		if (got != nil) != tc.cut {
			t.Errorf("%s: cut %v", tc.name, got != nil)
		}
		if got != nil && (w.end != got.off || got.end != tc.speed+8*mib) {
			t.Errorf("%s: %+v and %+v", tc.name, w, got)
		}
	}
}

// TestPlanTakesFromAStalledWriter shows that a writer that gets nothing while another one
// does loses the rest of its task, and that two that get nothing both wait.
func TestPlanTakesFromAStalledWriter(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	dropped := 0
	drop := func(err error) {
		if !errors.Is(err, errTakenOver) {
			t.Errorf("dropped with %v", err)
		}
		dropped++
	}
	stuck := &task{off: 0, end: 8 * mib, waiting: at(0), drop: drop}
	p := newPlan(spans{{0, 100 * mib}}, 8*mib, 2*time.Second, stuck)
	well := p.next(nil)
	well.waiting, well.drop = at(0), drop
	stuck.claim(0, mib, at(0))
	stuck.waiting = at(0)
	if n := p.takeStalled(at(10)); n != 0 {
		t.Fatalf("%d taken over while no writer receives anything", n)
	}
	well.claim(well.off, mib, at(1))
	p.received, well.waiting = at(1), at(1)
	if n := p.takeStalled(at(1)); n != 0 {
		t.Fatalf("%d taken over after one second", n)
	}
	if n := p.takeStalled(at(3)); n != 1 || dropped != 1 || stuck.end != mib {
		t.Fatalf("%d taken over, %d dropped, the writer's end is %d", n, dropped, stuck.end)
	}
	if next := p.next(nil); next.off != mib || next.end != 8*mib {
		t.Errorf("next is %+v, want what was taken over", next)
	}
	if p.stallAfter != 4*time.Second {
		t.Errorf("stall time %s", p.stallAfter)
	}
}
