package cache

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// usage notes when blobs were last used, in memory, and writes it to the
// index in batches, and with it what was verified. What a crash loses costs an
// eviction out of order.
type usage struct {
	now func() time.Time

	mu   sync.Mutex
	used map[digest.Digest]time.Time // since the last flush

	total int64 // bytes that the index knows of; the flusher's
}

func newUsage(now func() time.Time) *usage {
	return &usage{now: now, used: make(map[digest.Digest]time.Time)}
}

func (u *usage) touch(d digest.Digest) {
	now := u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used[d] = now
}

func (u *usage) forget(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.used, d)
}

func (u *usage) flush(c *Cache) {
	u.mu.Lock()
	batch := u.used
	u.used = make(map[digest.Digest]time.Time)
	u.mu.Unlock()
	maps.DeleteFunc(batch, func(d digest.Digest, _ time.Time) bool { return !c.Ledger.Holds(d) })
	if len(batch) > 0 {
		if err := c.Index.PutUsed(batch); err != nil {
			c.indexFailed(err)
		}
	}
	stats := c.Ledger.Stats()
	if total := stats.Bytes[0] + stats.Bytes[1] + stats.Partial; total != u.total && c.counted.Load() {
		u.total = total
		if err := c.Index.PutTotal(total); err != nil {
			c.indexFailed(err)
		}
	}
	verified := c.trust.take()
	maps.DeleteFunc(verified, func(d digest.Digest, _ index.Verified) bool { return !c.Ledger.Holds(d) })
	if len(verified) > 0 {
		if err := c.Index.PutVerified(verified); err != nil {
			c.indexFailed(err)
		}
	}
}
