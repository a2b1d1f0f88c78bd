package cache

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/failpoint"
	"hubcap/cache/index"
)

// Remove unlinks d if the ledger has it doomed. While a fill of d holds the
// digest nothing is done: a fill removes what is doomed before it makes its
// own file, and calls Remove when it has let go.
func (c *Cache) Remove(d digest.Digest) {
	for {
		if _, doomed := c.Ledger.Doomed(d); !doomed {
			return
		}
		unlock, free := c.locks.tryLock(d)
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

// removeLocked is Remove for who holds the digest. After an error something
// still stands in the digest's place.
func (c *Cache) removeLocked(d digest.Digest) error {
	size, doomed := c.Ledger.Doomed(d)
	if !doomed {
		return nil
	}
	c.manifests.remove(d)
	c.edges.Remove(d)
	c.usage.forget(d)
	c.trust.forget(d)
	c.unread.remove(d)
	closed := c.classes.of(d) == blobs.ClassClosed
	failpoint.At(failpoint.RemoveBegun)
	if err := c.Store.Remove(d); err != nil {
		c.Log.Warn("an evicted file cannot be removed; its bytes stay counted", "digest", d, "err", err)
		return err
	}
	failpoint.At(failpoint.RemoveCleared)
	c.Ledger.Unlinked(d)
	c.handles.retire(d, func() { c.Ledger.Freed(size) })
	failpoint.At(failpoint.RemoveCounted)
	err := c.Index.Forget(d)
	if closed {
		err = errors.Join(err, c.Index.Unlink(d))
		c.classes.set(d, blobs.ClassOpen)
	}
	if err != nil {
		c.indexFailed(err)
	}
	failpoint.At(failpoint.RemoveForgot)
	return nil
}

// superseded takes off the account what stood in the place of d's file that has
// just been committed: a file that could not be read, or one that was being
// evicted. The digest is held.
func (c *Cache) superseded(d digest.Digest) {
	c.unread.remove(d)
	c.Ledger.Doom(d)
	if size, doomed := c.Ledger.Doomed(d); doomed {
		c.Ledger.Unlinked(d)
		c.handles.replace(d, func() { c.Ledger.Freed(size) })
	}
}

func (c *Cache) indexFailed(err error) {
	c.Metrics.Fills.IndexFailed()
	if errors.Is(err, index.ErrNoRoom) {
		return // the disk's trouble is told once
	}
	c.Log.Warn("the index failed; serving goes on without what it would have known", "err", err)
}
