package fill

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Sizes of the pieces that writers fetch: large enough that the request for one
// costs little, small enough that what a reader waits for comes soon, that no
// fill holds a connection for long, and that every writer gets some. firstPiece
// is requested while the size is unknown. Blobs that are known to be at most
// maxPiece are requested as a whole.
const (
	minPiece   = 2 << 20
	firstPiece = 4 << 20
	maxPiece   = 8 << 20
)

// pieceOf returns the size of the pieces of a blob of size bytes, negative if
// unknown. A single writer gets all in one piece.
func pieceOf(size int64, writers int) int64 {
	if size >= 0 && writers == 1 {
		return size
	}
	if size < 0 {
		return firstPiece
	}
	return min(max(size/int64(writers)+1, minPiece), maxPiece)
}

// soon is how long a reader may have to wait for a writer that is approaching
// the reader's bytes. It is about the time that another connection takes: the
// bytes already sent to a writer whose task is cut are wasted.
const soon = 50 * time.Millisecond

// task is a span that one writer fetches. Bytes before off are written or about
// to be; end may be lowered down to off meanwhile, so that no two writers ever
// write the same byte. It is guarded by its fill's mu.
type task struct {
	off, end int64
	begun    time.Time               // when the first bytes came; zero before
	from     int64                   // the offset of those
	waiting  time.Time               // since when the writer waits for its source; zero while it does not
	drop     context.CancelCauseFunc // ends the writer's transfer; nil before there is one
}

// claim makes up to n bytes at off the writer's and returns how many.
func (t *task) claim(off int64, n int, now time.Time) int {
	if t.end >= 0 {
		n = int(max(min(int64(n), t.end-off), 0))
	}
	if t.begun.IsZero() {
		t.begun, t.from = now, off
	}
	t.off = max(t.off, off+int64(n))
	t.waiting = time.Time{}
	return n
}

// reaches estimates when the writer will reach off at its present speed. While
// the speed is not known, it returns 0.
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

// plan is what a fill of known size has yet to fetch. It is guarded by its
// fill's mu.
type plan struct {
	piece      int64 // bytes of one
	free       spans // that no writer has
	taken      map[*task]struct{}
	stallAfter time.Duration // after which a writer that receives nothing while others do is stalled
	received   time.Time     // when any writer last received bytes
}

// newPlan returns a plan for the missing spans, in which the first task is taken
// already.
func newPlan(missing spans, piece int64, stallAfter time.Duration, first *task) *plan {
	p := &plan{piece: piece, stallAfter: stallAfter, free: missing, taken: map[*task]struct{}{first: {}}}
	p.free.remove(span{first.off, first.end})
	return p
}

// next returns a task for a writer: what a reader waits for first, the rest in
// order. It is nil if everything is taken.
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

// take returns a task for a piece from off on, which is free.
func (p *plan) take(off int64) *task {
	end := p.free.endFrom(off)
	if end-off > p.piece+p.piece/2 { // the rest is no tiny piece
		end = off + p.piece
	}
	p.free.remove(span{off, end})
	t := &task{off: off, end: end}
	p.taken[t] = struct{}{}
	return t
}

// urgent returns a task for a reader that waits at off, or nil if a writer will
// reach off soon. The task of a writer that has off in its span, but far ahead,
// is cut there.
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

// long is how long a task may take before the rest of it is shared out. Its source has
// sent more than the shorter task by then, about a round trip's bytes, which are lost.
const long = 2 * time.Second

// share frees what the tasks have beyond a piece, if they would take long at speed bytes
// a second each.
func (p *plan) share(speed int64) {
	for t := range p.taken {
		left := t.end - t.off
		if left > p.piece+p.piece/2 && float64(left) > float64(speed)*long.Seconds() { // the rest is no tiny piece
			p.free.add(span{t.off + p.piece, t.end})
			t.end = t.off + p.piece
		}
	}
}

// errTakenOver ends the transfer of a writer whose bytes another one fetches.
var errTakenOver = errors.New("another connection fetches these bytes")

// takeStalled frees what stalled writers have not received, and returns how
// many there are. A writer is stalled if it has waited for stallAfter and others
// have received bytes since it began to wait: a source that is slow for all is
// not asked twice. stallAfter doubles each time.
func (p *plan) takeStalled(now time.Time) (count int) {
	for t := range p.taken {
		if t.waiting.IsZero() || t.off == t.end || now.Sub(t.waiting) < p.stallAfter || !p.received.After(t.waiting) {
			continue
		}
		p.free.add(span{t.off, t.end})
		t.end = t.off
		t.drop(errTakenOver)
		count++
	}
	if count > 0 {
		p.stallAfter *= 2
	}
	return count
}

// done removes a task.
func (p *plan) done(t *task) { delete(p.taken, t) }
