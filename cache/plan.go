package cache

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// A writer is given a piece at a time: large enough that asking for it costs
// little, small enough that what a reader waits for comes soon, that no fill
// holds a connection for long, and that every connection has some. firstPiece
// is asked for while the size is not known; blobs up to maxPiece that are
// known to be so small are asked for whole.
const (
	minPiece   = 2 << 20
	firstPiece = 4 << 20
	maxPiece   = 8 << 20
)

// pieceOf is how many bytes a writer is given of a blob of size bytes. A
// single one goes through in one go.
func pieceOf(size int64, writers int) int64 {
	if size >= 0 && writers == 1 {
		return size
	}
	if size < 0 {
		return firstPiece
	}
	return min(max(size/int64(writers)+1, minPiece), maxPiece)
}

// soon is how long a reader may have to wait for a writer that is on its way
// to the reader's bytes: not much longer than a connection of its own takes,
// since a writer that is cut short has bytes under way for nothing.
const soon = 50 * time.Millisecond

// task is a span that one writer brings. Bytes before off are the writer's,
// written or about to be; end may be cut down to off while it is at work, so
// that no two writers ever write the same byte.
type task struct {
	off, end int64
	begun    time.Time               // when the first bytes came; zero before
	from     int64                   // where they began
	asked    time.Time               // since when the source is waited for; zero while it is not
	drop     context.CancelCauseFunc // ends the writer's transfer; nil before there is one
}

// claim makes up to n bytes at off the writer's and tells how many are.
func (t *task) claim(off int64, n int, now time.Time) int {
	if t.end >= 0 {
		n = int(max(min(int64(n), t.end-off), 0))
	}
	if t.begun.IsZero() {
		t.begun, t.from = now, off
	}
	t.off = max(t.off, off+int64(n))
	t.asked = time.Time{}
	return n
}

// reaches estimates when the writer will be at off, by its speed so far.
// Before there is one, it is given the benefit of the doubt.
func (t *task) reaches(off int64, now time.Time) time.Duration {
	if t.begun.IsZero() {
		return 0
	}
	done, took := t.off-t.from, now.Sub(t.begun)
	if took < soon/5 || done == 0 {
		return 0
	}
	return time.Duration(float64(off-t.off) / float64(done) * float64(took))
}

// plan is what a fill of known size has yet to bring: what nobody has taken,
// and what writers are at. It is guarded by its fill's mu.
type plan struct {
	piece    int64
	free     spans
	taken    map[*task]struct{}
	patience time.Duration // with a writer that gets nothing while others do
	heard    time.Time     // when bytes last came to any writer
}

// newPlan has what is missing to bring, but what the first task takes, whose
// answer is open already.
func newPlan(missing spans, piece int64, patience time.Duration, first *task) *plan {
	p := &plan{piece: piece, patience: patience, free: missing, taken: map[*task]struct{}{first: {}}}
	p.free.remove(span{first.off, first.end})
	return p
}

// next gives a writer something to bring: what a reader waits for comes
// first, the rest in order. It is nil when everything is taken.
func (p *plan) next(wanted map[int64]int) *task {
	for _, off := range slices.Sorted(maps.Keys(wanted)) {
		if p.free.endFrom(off) > off {
			return p.take(off)
		}
	}
	if len(p.free) == 0 {
		return nil
	}
	return p.take(p.free[0].off)
}

// take gives out a piece from off on, which is free.
func (p *plan) take(off int64) *task {
	end := p.free.endFrom(off)
	if end-off > p.piece+p.piece/2 { // no crumbs
		end = off + p.piece
	}
	p.free.remove(span{off, end})
	t := &task{off: off, end: end}
	p.taken[t] = struct{}{}
	return t
}

// urgent gives out what a reader at off cannot wait for: a writer of its own
// from there on, unless one will be there in a moment. A writer that has off
// in its span, but far ahead, is cut there; it has some bytes under way for
// nothing.
func (p *plan) urgent(off int64, now time.Time) (t *task, cut bool) {
	if p.free.endFrom(off) > off {
		return p.take(off), false
	}
	for t := range p.taken {
		if t.off <= off && off < t.end {
			if t.reaches(off, now) <= soon {
				return nil, false
			}
			rest := &task{off: off, end: t.end}
			t.end = off
			p.taken[rest] = struct{}{}
			return rest, true
		}
	}
	return nil, false
}

// errTakenOver ends the transfer of a writer whose bytes another one brings.
var errTakenOver = errors.New("another connection brings these bytes")

// stalled takes from writers that have waited too long what they have not
// got, for whoever asks next, and tells from how many. A writer has waited
// too long when others got bytes in the meantime: a source that is slow for
// everybody is not asked twice. Patience doubles each time.
func (p *plan) stalled(now time.Time) (count int) {
	for t := range p.taken {
		if t.asked.IsZero() || t.off == t.end || now.Sub(t.asked) < p.patience || !p.heard.After(t.asked) {
			continue
		}
		p.free.add(span{t.off, t.end})
		t.end = t.off
		t.drop(errTakenOver)
		count++
	}
	if count > 0 {
		p.patience *= 2
	}
	return count
}

// done takes a task off.
func (p *plan) done(t *task) { delete(p.taken, t) }
