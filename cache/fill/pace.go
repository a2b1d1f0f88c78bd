package fill

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// paceBurst is how many bytes may come at once under a cap. It is small, so that
// many transfers take turns often.
const paceBurst = 64 << 10

// pacer caps the bytes a second of all transfers together. Waiting transfers are
// served in order, so that all get their share. Those that no client has
// requested yet wait until no other one does.
type pacer struct {
	limit *rate.Limiter // bytes a second; nil for no cap

	mu      sync.Mutex
	waiting int           // requested transfers that wait now
	idle    chan struct{} // closed and replaced when waiting becomes 0
}

// newPacer returns a pacer with a cap in bytes a second; 0 is no cap.
func newPacer(bytesPerSecond int64) *pacer {
	p := &pacer{idle: make(chan struct{})}
	if bytesPerSecond > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), paceBurst)
	}
	return p
}

// wait returns when the n bytes that have come may be used. requested is closed
// once a client wants them. The error is ctx's cause.
func (p *pacer) wait(ctx context.Context, n int, requested <-chan struct{}) error {
	if p.limit == nil {
		return nil
	}
	for n > 0 {
		if err := p.yield(ctx, requested); err != nil {
			return err
		}
		some := min(n, p.limit.Burst())
		if err := p.take(ctx, some, isClosed(requested)); err != nil {
			return context.Cause(ctx)
		}
		n -= some
	}
	return nil
}

// take waits for n bytes in the common queue. If counts, others yield to it.
func (p *pacer) take(ctx context.Context, n int, counts bool) error {
	if counts {
		p.mu.Lock()
		p.waiting++
		p.mu.Unlock()
		defer p.leave()
	}
	return p.limit.WaitN(ctx, n)
}

func (p *pacer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		close(p.idle)
		p.idle = make(chan struct{})
	}
}

// yield waits while requested transfers wait, unless this one is requested.
func (p *pacer) yield(ctx context.Context, requested <-chan struct{}) error {
	for {
		p.mu.Lock()
		idle, others := p.idle, p.waiting > 0
		p.mu.Unlock()
		if !others || isClosed(requested) {
			return nil
		}
		select {
		case <-idle:
		case <-requested:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
