package fakehub

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// step is how much time one paced write stands for: small enough to be
	// smooth, large enough not to be lost in timer resolution.
	step = 4 * time.Millisecond
	// slack is how far a sender may fall behind and still catch up. It evens
	// out late timers and is also the largest burst.
	slack = 10 * time.Millisecond
	// sharePiece is the least that one of many senders under a common cap
	// writes at once; below it, system calls would cost more than they smooth.
	sharePiece = 16 << 10
	// maxPiece and fullPiece bound one write, with and without a cap.
	maxPiece  = 64 << 10
	fullPiece = 1 << 20
)

// pacer returns points in time at a given rate.
type pacer struct {
	mu   sync.Mutex
	next time.Time
}

// reserve adds n bytes at a rate and returns when they may be sent.
func (p *pacer) reserve(n, rate int64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if floor := time.Now().Add(-slack); p.next.Before(floor) {
		p.next = floor
	}
	at := p.next
	p.next = at.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return at
}

// firstWindow is what a TCP sender has under way before the first acknowledgement: ten
// packets (RFC 6928).
const firstWindow = 10 * 1460

// sendWindow is what may be sent within one round trip of a Distant hub. The zero value
// sends without limit.
type sendWindow struct {
	roundTrip time.Duration
	size      int64 // bytes of this round trip
	left      int64 // of them not sent yet
	began     time.Time
}

func newSendWindow(roundTrip time.Duration) *sendWindow {
	return &sendWindow{roundTrip: roundTrip, size: firstWindow, left: firstWindow, began: time.Now()}
}

// take returns how many of n bytes may be sent now. When all of this round trip are
// sent, it flushes them and waits for the next one.
func (w *sendWindow) take(ctx context.Context, n int64, flush func() error) (int64, error) {
	if w.roundTrip == 0 {
		return n, nil
	}
	if w.left == 0 {
		if err := errors.Join(flush(), sleep(ctx, time.Until(w.began.Add(w.roundTrip)))); err != nil {
			return 0, err
		}
		w.size *= 2
		w.left, w.began = w.size, time.Now()
	}
	n = min(n, w.left)
	w.left -= n
	return n, nil
}

// limit is a pacer with its rate and how many senders share it.
type limit struct {
	*pacer
	rate    int64
	senders int64
}

// piece returns how many bytes one sender writes at once: all senders together
// take about a step.
func (l limit) piece() int64 {
	all := max(1, l.rate*int64(step)/int64(time.Second))
	return min(all, max(sharePiece, all/max(1, l.senders)))
}

// pieceSize returns how many bytes to write at once under the limits.
func pieceSize(limits []limit) int64 {
	size := int64(fullPiece)
	for _, l := range limits {
		size = min(size, maxPiece, l.piece())
	}
	return size
}

// pace waits until n bytes may be sent under all limits.
func pace(ctx context.Context, limits []limit, n int64) error {
	var at time.Time
	for _, l := range limits {
		if t := l.reserve(n, l.rate); t.After(at) {
			at = t
		}
	}
	return sleep(ctx, time.Until(at))
}

// sleep waits for a duration or the end of the context.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
