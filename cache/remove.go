package cache

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/failpoint"
	"hubcap/cache/index"
	"hubcap/eviction"
)

// Remove unlinks d if the ledger has it evicted. While a fill of d holds the
// lock of the digest, it does nothing: a fill unlinks what is evicted before it
// creates its own file, and calls Remove after it has released the lock.
func (c *Cache) Remove(d digest.Digest) {
	for {
		if _, evicted := c.o.Ledger.Evicted(d); !evicted {
			return
		}
		unlock, free := c.digests.TryLock(d)
		if !free {
			return
		}
		err := c.removeLocked(d)
		unlock()
		if err != nil {
			return // the janitor tries again
		}
	}
}

// removeLocked is Remove for a caller that holds the lock of the digest. After
// an error there may still be a file of d.
func (c *Cache) removeLocked(d digest.Digest) error {
	size, evicted := c.o.Ledger.Evicted(d)
	if !evicted {
		return nil
	}
	c.gone.note(d, c.o.Now(), false)
	c.manifests.remove(d)
	c.small.Remove(d)
	c.edges.Remove(d)
	c.usage.forget(d)
	c.trust.forget(d)
	c.unread.remove(d)
	restricted := c.classes.of(d) == blobs.Restricted
	failpoint.At(failpoint.RemoveBegun)
	if err := c.o.Store.Remove(d); err != nil {
		c.o.Log.Warn("an evicted file cannot be unlinked; its bytes stay counted", "digest", d, "err", err)
		return err
	}
	failpoint.At(failpoint.RemoveCleared)
	c.o.Ledger.Unlinked(d)
	c.files.Unlinked(d, func() { c.o.Ledger.Freed(size) })
	failpoint.At(failpoint.RemoveCounted)
	err := c.o.Index.Forget(d)
	if restricted {
		err = errors.Join(err, c.o.Index.Unlink(d))
		c.classes.set(d, blobs.Public)
	}
	if err != nil {
		c.indexFailed(err)
	}
	failpoint.At(failpoint.RemoveForgot)
	return nil
}

// committed notes the file that has just become the blob d, for which so many
// bytes are reserved. The file that it has replaced, one that could not be read or
// that was being evicted, is taken off the account. The caller holds the lock of
// the digest.
func (c *Cache) committed(d digest.Digest, stat blobs.Stat, class blobs.Class, host string, reserved int64) {
	c.unread.remove(d)
	c.gone.forget(d)
	c.o.Ledger.Evict(d)
	if size, evicted := c.o.Ledger.Evicted(d); evicted {
		c.o.Ledger.Unlinked(d)
		c.unread.replaced.Add(1)
		c.files.Replaced(d, func() { c.o.Ledger.Freed(size) })
	}
	c.trust.verified(d, stat, c.o.Now())
	c.classes.set(d, class) // before the ledger holds it
	c.noteFrom(d, host)
	c.o.Ledger.Commit(d, reserved, stat.Size)
	c.capacity.Fetched(d, stat.Size, c.o.Ledger.Segment(stat.Size) == eviction.Small)
	failpoint.At(failpoint.CommitCounted)
	c.usage.touch(d)
}

func (c *Cache) indexFailed(err error) {
	c.o.Metrics.Fills.IndexFailed()
	if errors.Is(err, index.ErrNoRoom) {
		return // the problem of the disk is logged once
	}
	c.o.Log.Warn("the index failed; serving continues without what it would have returned or stored", "err", err)
}
