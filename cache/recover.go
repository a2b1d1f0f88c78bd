package cache

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/index"
)

// found is a file that lay there at the start.
type found struct {
	digest  digest.Digest
	size    int64
	used    int64 // nanoseconds since 1970
	partial bool
}

// begin starts the taking up of what lies there: the files are the truth. It
// returns when that is done, or has taken so long that it goes on behind the
// serving. Until its end nothing is evicted, what the index says lies there
// counts, and a blob that is asked for is looked for on disk.
func (c *Cache) begin() error {
	partials, err := c.partials()
	if err != nil {
		return fmt.Errorf("remove unfinished downloads: %w", err)
	}
	expected, known, err := c.Index.Total()
	if err != nil {
		c.indexFailed(err)
	}
	if !known {
		expected = c.Ledger.Stats().Budget // there may be anything
	}
	c.Ledger.BeginAdoption(expected)
	for _, p := range partials {
		c.Ledger.Adopt(p.digest, p.size, time.Unix(0, p.used), true)
	}
	var failed error
	c.running.Go(func() {
		defer close(c.walked)
		defer c.janitor.Wake()
		defer c.Ledger.EndAdoption()
		failed = c.takeUp(len(partials))
	})
	late := time.NewTimer(c.StartWithin)
	defer late.Stop()
	select {
	case <-c.walked:
		return failed
	case <-late.C:
		c.Log.Info("serving begins; the files are still being counted", "expected_bytes", expected)
		return nil
	}
}

// partials are the unfinished downloads that can go on. The rest goes.
func (c *Cache) partials() (kept []found, err error) {
	removed, err := c.Store.Partials(func(p blobs.Partial) bool {
		size, _, ok := decodeNote(p.Note, p.Size)
		if ok = ok && !c.stored(p.Digest); ok {
			kept = append(kept, found{p.Digest, size, p.Modified.UnixNano(), true})
		}
		return ok
	})
	if removed > 0 {
		c.Log.Info("unfinished downloads that cannot go on are removed", "count", removed)
	}
	return kept, err
}

// takeUp counts the files into the ledger: in the order of their last use as
// far as the index knows it, of their making where it does not.
func (c *Cache) takeUp(partials int) error {
	used := make(map[digest.Digest]int64)
	if err := c.Index.Used(func(d digest.Digest, at time.Time) { used[d] = at.UnixNano() }); err != nil {
		c.indexFailed(err)
	}
	if err := c.Index.Verified(c.trust.learn); err != nil {
		c.indexFailed(err)
	}
	var files []found
	var bytes int64
	err := c.Store.Walk(func(d digest.Digest, size int64, modified time.Time) error {
		if c.base.Err() != nil {
			return errStopped
		}
		if !c.plausible(d, size) {
			return c.removeFile(d)
		}
		at, known := used[d]
		if !known {
			at = modified.UnixNano()
		}
		files = append(files, found{d, size, at, false})
		bytes += size
		return nil
	})
	if err != nil {
		c.Log.Warn("the files could not all be counted; the next start tries again", "err", err)
		return fmt.Errorf("walk the blobs: %w", err)
	}
	slices.SortFunc(files, func(a, b found) int { return cmp.Compare(a.used, b.used) })
	for _, f := range files {
		c.Ledger.Adopt(f.digest, f.size, time.Unix(0, f.used), false)
		delete(used, f.digest)
	}
	c.forgetUsed(used)
	c.Log.Info("cache opened", "objects", len(files), "bytes", bytes, "unfinished", partials)
	return nil
}

// walking tells whether there may be files that the ledger does not know yet.
func (c *Cache) walking() bool { return !isClosed(c.walked) }

// discover looks for a file that the ledger does not know yet.
func (c *Cache) discover(d digest.Digest) {
	f, stat, err := c.Store.Open(d)
	if err != nil {
		return
	}
	_ = f.Close()
	if c.plausible(d, stat.Size) {
		c.Ledger.Adopt(d, stat.Size, c.Now(), false)
	}
}

// plausible tells whether a file of d may have this size. An answer's length
// is the file's, so one that is not is not even opened.
func (c *Cache) plausible(d digest.Digest, size int64) bool {
	right, known := c.trust.size(d)
	if known && size == right || !known && (size > 0 || d == d.Algorithm().FromBytes(nil)) {
		return true
	}
	c.Log.Warn("a cached file has another length than it had, and is removed", "digest", d, "bytes", size, "want_bytes", right)
	return false
}

// removeFile removes a file that the ledger does not know, unless a fill of it
// is going on.
func (c *Cache) removeFile(d digest.Digest) error {
	unlock, free := c.locks.tryLock(d)
	if !free {
		return nil
	}
	defer unlock()
	if c.Ledger.Holds(d) {
		return nil
	}
	c.trust.forget(d)
	return c.Store.Remove(d)
}

// stored tells whether there is a file of d.
func (c *Cache) stored(d digest.Digest) bool {
	f, _, err := c.Store.Open(d)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// forgetUsed removes what the index knows of files that are gone.
func (c *Cache) forgetUsed(gone map[digest.Digest]int64) {
	for d := range gone {
		unlock, free := c.locks.tryLock(d)
		if !free {
			continue
		}
		var err error
		if !c.Ledger.Holds(d) {
			c.trust.forget(d)
			err = c.Index.Forget(d)
		}
		unlock()
		if err != nil {
			c.indexFailed(err)
			return
		}
	}
}

// learn takes what the index knows, unless more is known already.
func (t *trust) learn(d digest.Digest, v index.Verified) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.known[d]; !known {
		t.known[d] = v
	}
}
