package cache

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// usage notes in memory when blobs were last used, and writes it to the index in
// batches, together with what was verified. What a crash loses costs an eviction
// out of order.
//
// The times never go back, whatever the clock does: a later use has a later time
// or the same. So the order stays right if the clock was wrong for a while; the
// times themselves are then ahead of the clock until it has caught up.
type usage struct {
	now func() time.Time

	mu     sync.Mutex
	used   map[digest.Digest]time.Time // since the last flush
	latest time.Time                   // of all times; those in the index too once learn was called

	total int64 // bytes last written to the index; only flush uses it
}

func newUsage(now func() time.Time) *usage {
	return &usage{now: now, used: make(map[digest.Digest]time.Time)}
}

func (u *usage) touch(d digest.Digest) {
	now := u.now().Round(0) // without the monotonic clock, which the index does not have
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.After(u.latest) {
		u.latest = now
	}
	u.used[d] = u.latest
}

// learn notes the latest use before the start, as the index has it. All uses
// since the start become later ones.
func (u *usage) learn(before time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	after := before.Add(time.Second) // the index has whole seconds
	for d, at := range u.used {
		if at.Before(after) {
			u.used[d] = after
		}
	}
	if after.After(u.latest) {
		u.latest = after
	}
}

// take returns what was used since the last flush. While the times are ahead of
// the clock, each flush is a second later than the one before.
func (u *usage) take() map[digest.Digest]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	batch := u.used
	u.used = make(map[digest.Digest]time.Time)
	if len(batch) > 0 && u.latest.After(u.now()) {
		u.latest = u.latest.Add(time.Second)
	}
	return batch
}

func (u *usage) forget(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.used, d)
}

func (u *usage) flush(c *Cache) {
	var batch map[digest.Digest]time.Time
	if isClosed(c.walked) { // else the latest use is not known yet
		batch = u.take()
	}
	writeHeld(c, batch, c.o.Index.PutUsed)
	status := c.o.Ledger.Status()
	_, held := status.Held()
	if total := held + status.Partial; total != u.total && c.counted.Load() {
		u.total = total
		if err := c.o.Index.PutTotal(total); err != nil {
			c.indexFailed(err)
		}
	}
	writeHeld(c, c.trust.take(), c.o.Index.PutVerified)
}

// writeHeld calls put with the records of the blobs that are held.
func writeHeld[V any](c *Cache, batch map[digest.Digest]V, put func(map[digest.Digest]V) error) {
	maps.DeleteFunc(batch, func(d digest.Digest, _ V) bool { return !c.o.Ledger.Holds(d) })
	if len(batch) == 0 {
		return
	}
	if err := put(batch); err != nil {
		c.indexFailed(err)
	}
}
