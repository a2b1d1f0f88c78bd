package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"hubcap/proxy/upstream"
)

// patiently answers, and answers again after a registry that wants to be left
// alone for a short while was left alone: dockerd and containerd would take a
// 429 for the end of hubcap and go to the registry themselves, which says it
// to them too. What has begun to be sent is not begun again.
func (h *Handler) patiently(ctx context.Context, a *answer, serve func() error) error {
	for left := h.RateLimitWait; ; {
		err := serve()
		wait := limitedFor(err)
		if wait <= 0 || wait > left || a.status != 0 {
			return err
		}
		// Those who wait do not all come back at one moment.
		wait = min(wait+rand.N(wait/8+1), left) //nolint:gosec // jitter, not a secret
		left -= wait
		h.Metrics.Delayed()
		if err := h.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// limitedFor is how long a registry that has answered 429 wants to be left
// alone; 0 for any other failure.
func limitedFor(err error) time.Duration {
	var up *upstream.Error
	if !errors.As(err, &up) || up.Kind != upstream.RateLimited {
		return 0
	}
	return up.RetryAfter
}

// Sleep waits for d, or until ctx ends.
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
