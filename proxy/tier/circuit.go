package tier

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// tripAfter is how many transfers have to fail, with none that succeeds between them,
// until the bucket is not asked: one object that cannot be read is no failing bucket.
const tripAfter = 3

// circuit is the memory that the bucket fails and is not asked. It opens after
// tripAfter failures, and at once after one that concerns the whole bucket. It closes
// when the bucket has answered a question of look, which no client waits for.
type circuit struct {
	now func() time.Time

	mu       sync.Mutex
	failures int           // in a row
	open     bool          // not asked
	since    time.Time     // when it opened
	why      error         // it opened
	opened   chan struct{} // has a value when it has opened; for look
	closed   chan struct{} // closed while it is not open

	until   time.Time     // after wrong bytes, until when the bucket is not asked
	wrong   digest.Digest // whose object gave them; empty for none
	wrongAt time.Time
}

func newCircuit(now func() time.Time) *circuit {
	c := &circuit{now: now, opened: make(chan struct{}, 1), closed: make(chan struct{})}
	close(c.closed)
	return c
}

// asks reports whether the bucket is asked for blobs.
func (c *circuit) asks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.open && !c.now().Before(c.until)
}

// await waits until the circuit is closed. The error is ctx's cause.
func (c *circuit) await(ctx context.Context) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closed:
		return nil
	}
}

// worked notes a transfer that succeeded.
func (c *circuit) worked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = 0
}

// failed notes a failure; whole says that it concerns the whole bucket. It reports
// whether the circuit has opened.
func (c *circuit) failed(why error, whole bool) (opened bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures++
	if c.open {
		c.why = why
		return false
	}
	if !whole && c.failures < tripAfter {
		return false
	}
	c.open, c.since, c.why, c.closed = true, c.now(), why, make(chan struct{})
	select {
	case c.opened <- struct{}{}:
	default:
	}
	return true
}

// answered closes the circuit after the bucket has answered. It reports whether it was
// open.
func (c *circuit) answered() (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was = c.open; was {
		c.open = false
		close(c.closed)
	}
	return was
}

// tripped reports whether transfers have failed and not only what concerns the whole
// bucket, so that its answer to a question says little.
func (c *circuit) tripped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures >= tripAfter
}

// gaveWrong notes that the object of d gave wrong bytes: the bucket is not asked for
// the given time.
func (c *circuit) gaveWrong(d digest.Digest, rest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.until, c.wrong, c.wrongAt = now.Add(rest), d, now
}
