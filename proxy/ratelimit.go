package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"hubcap/proxy/upstream"
)

// retryLimited calls serve, and calls it again after a short rate limit of the
// registry has ended, for RateLimitWait in all. Clients that got the 429 would
// go to the registry themselves, and get it there too. A response that has
// begun is not repeated.
func (h *Handler) retryLimited(ctx context.Context, a *answer, serve func() error) error {
	for left := h.RateLimitWait; ; {
		err := serve()
		wait := limitedFor(err)
		if wait <= 0 || wait > left || a.status != 0 {
			return err
		}
		// Waiting clients must not all retry at the same moment.
		wait = min(wait+rand.N(wait/8+1), left) //nolint:gosec // jitter, not a secret
		left -= wait
		h.Metrics.Delayed()
		if err := h.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// limitedFor returns how long the registry's rate limit lasts; 0 for any error
// but a 429.
func limitedFor(err error) time.Duration {
	up, ok := errors.AsType[*upstream.Error](err)
	if !ok || up.Kind != upstream.RateLimited {
		return 0
	}
	return up.RetryAfter
}

// Sleep returns after d or when ctx ends, with the cause of that.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
