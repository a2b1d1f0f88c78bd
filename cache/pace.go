package cache

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// paceBurst is how many bytes may come at once under a cap: a little, so
// that many transfers take turns often.
const paceBurst = 64 << 10

// pacer caps what all transfers together bring in. Who waits is served in
// order, so that all get their share; what nobody asked for yet waits until
// nobody else does.
type pacer struct {
	limit *rate.Limiter // bytes a second; nil for no cap

	mu      sync.Mutex
	waiting int           // transfers that somebody asked for and that wait now
	idle    chan struct{} // closed and replaced when waiting comes to 0
}

// newPacer caps at some bytes a second; 0 is no cap.
func newPacer(bytesPerSecond int64) *pacer {
	p := &pacer{idle: make(chan struct{})}
	if bytesPerSecond > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), paceBurst)
	}
	return p
}

// wait returns when n bytes that have come may be taken in. Until asked is
// closed nobody asked for them. The error is ctx's cause.
func (p *pacer) wait(ctx context.Context, n int, asked <-chan struct{}) error {
	if p.limit == nil {
		return nil
	}
	for n > 0 {
		if err := p.yield(ctx, asked); err != nil {
			return err
		}
		some := min(n, p.limit.Burst())
		if err := p.take(ctx, some, isClosed(asked)); err != nil {
			return context.Cause(ctx)
		}
		n -= some
	}
	return nil
}

// take waits for n bytes in the queue of all. Only what was asked for makes
// others yield.
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

// yield lets those go first who wait for what was asked for.
func (p *pacer) yield(ctx context.Context, asked <-chan struct{}) error {
	for {
		p.mu.Lock()
		idle, first := p.idle, p.waiting > 0
		p.mu.Unlock()
		if !first || isClosed(asked) {
			return nil
		}
		select {
		case <-idle:
		case <-asked:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
