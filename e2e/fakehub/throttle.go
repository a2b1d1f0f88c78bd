package fakehub

import (
	"context"
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
