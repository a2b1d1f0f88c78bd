package cache

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
)

// found is a file that lay there at the start.
type found struct {
	digest  digest.Digest
	size    int64
	used    int64 // nanoseconds since 1970
	partial bool
}

// byUse sorts what was used longest ago first.
func byUse(a, b found) int { return cmp.Compare(a.used, b.used) }

// begin starts the taking up of what lies there: the files are the truth. It
// returns when that is done, or has taken so long that it goes on behind the
// serving. Until its end nothing is evicted, what the index says lies there
// counts, and a blob that is asked for is looked for on disk. Whatever is wrong
// with the files, hubcap starts.
func (c *Cache) begin() {
	partials := c.partials()
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
	c.running.Go(func() {
		defer close(c.walked)
		defer c.janitor.Wake()
		defer c.Ledger.EndAdoption()
		c.takeUp(len(partials))
	})
	late := time.NewTimer(c.StartWithin)
	defer late.Stop()
	select {
	case <-c.walked:
	case <-late.C:
		c.Log.Info("serving begins; the files are still being counted", "expected_bytes", expected)
	}
}

// partials are the unfinished downloads that can go on. The rest goes.
func (c *Cache) partials() (kept []found) {
	removed, err := c.Store.Partials(func(p blobs.Partial) bool {
		size, _, ok := decodeNote(p.Note, p.Size)
		if _, whole := c.stored(p.Digest); !ok || whole {
			return false
		}
		kept = append(kept, found{p.Digest, size, p.Modified.UnixNano(), true})
		return true
	})
	if removed > 0 {
		c.Log.Info("unfinished downloads that cannot go on are removed", "count", removed)
	}
	if err != nil {
		c.Log.Warn("unfinished downloads cannot be removed; the next start tries again", "err", err)
	}
	return kept
}

// takeUp counts the files into the ledger: in the order of their last use as
// far as the index knows it, of their making where it does not.
func (c *Cache) takeUp(partials int) {
	used := make(map[digest.Digest]int64)
	if err := c.Index.Used(func(d digest.Digest, at time.Time) { used[d] = at.UnixNano() }); err != nil {
		c.indexFailed(err)
	}
	if err := c.Index.Verified(c.trust.learn); err != nil {
		c.indexFailed(err)
	}
	var files []found
	var bytes int64
	var stuck error
	err := c.Store.Walk(func(d digest.Digest, size int64, modified time.Time) error {
		if c.base.Err() != nil {
			return errStopped
		}
		if !c.plausible(d, size) {
			stuck = errors.Join(stuck, c.removeFile(d))
			return nil
		}
		at, known := used[d]
		if !known {
			at = modified.UnixNano()
		}
		files = append(files, found{d, size, at, false})
		bytes += size
		return nil
	})
	if errors.Is(err, errStopped) {
		return
	}
	if err = errors.Join(err, stuck); err != nil {
		c.Log.Warn("some files cannot be counted or removed; the next start tries again", "err", err)
	}
	slices.SortFunc(files, byUse)
	for _, f := range files {
		c.Ledger.Adopt(f.digest, f.size, time.Unix(0, f.used), false)
		delete(used, f.digest)
	}
	c.forgetUsed(used)
	c.Log.Info("cache opened", "objects", len(files), "bytes", bytes, "unfinished", partials)
}

// walking tells whether there may be files that the ledger does not know yet.
func (c *Cache) walking() bool { return !isClosed(c.walked) }

// discover looks for a file that the ledger does not know yet.
func (c *Cache) discover(d digest.Digest) {
	if size, ok := c.stored(d); ok && c.plausible(d, size) {
		c.Ledger.Adopt(d, size, c.Now(), false)
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

// stored tells whether there is a file of d, and how large it is.
func (c *Cache) stored(d digest.Digest) (size int64, ok bool) {
	f, stat, err := c.Store.Open(d)
	if err != nil {
		return 0, false
	}
	_ = f.Close()
	return stat.Size, true
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
