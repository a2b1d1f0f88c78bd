package upstream

import (
	"sync"
	"time"
)

// The first and the longest pause after a 429 without Retry-After.
const (
	firstPause = 5 * time.Second
	maxPause   = time.Minute
)

// maxBackoff bounds the Retry-After of a 429 that is not about a pull limit.
// Limits on requests are usually counted over a minute; longer ones are mostly
// mistakes.
const maxBackoff = 5 * time.Minute

// backoffProbe is how often one request finds out, during a backoff, whether
// the host answers again.
const backoffProbe = time.Minute

// backoff keeps requests from a host that has answered 429. Its methods are
// safe for concurrent use.
type backoff struct {
	now func() time.Time

	mu     sync.Mutex
	until  time.Time     // no request is sent before
	pause  time.Duration // the last one without Retry-After; 0 once the host has answered
	probed time.Time     // when the backoff began, or was last probed
}

// admit reports whether a request may be sent (wait is 0), as a probe if there
// is a backoff, or returns how long it has to wait.
func (b *backoff) admit() (probe bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if !now.Before(b.until) {
		return false, 0
	}
	if now.Sub(b.probed) < backoffProbe {
		return false, b.until.Sub(now)
	}
	b.probed = now
	return true, 0
}

// ends returns when the backoff ends; zero or past for none.
func (b *backoff) ends() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until
}

// wait returns how long the backoff lasts.
func (b *backoff) wait() time.Duration { return max(b.ends().Sub(b.now()), 0) }

// begin notes a 429 that is not about a pull limit. Without Retry-After the
// pause doubles for as long as they go on. It reports whether the 429 counts:
// one of a request that was sent before the backoff does not.
func (b *backoff) begin(retryAfter time.Duration, probe bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if retryAfter <= 0 && now.Before(b.until) && !probe {
		return false
	}
	if retryAfter <= 0 {
		b.pause = min(max(2*b.pause, firstPause), maxPause)
		retryAfter = b.pause
	}
	b.probed = now
	if until := now.Add(min(retryAfter, maxBackoff)); probe || until.After(b.until) {
		b.until = until
	}
	return true
}

// answered notes an answer other than 429. That to a probe ends the backoff;
// others may be to requests that were sent before it began.
func (b *backoff) answered(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pause = 0
	if probe {
		b.until = time.Time{}
	}
}
