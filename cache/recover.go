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
	used    time.Time
	partial bool
}

// recover counts the files, which are the truth, into the ledger: in the
// order of their last use as far as the index knows it, of their making
// where it does not. What a former process left half done goes.
func (c *Cache) recover() error {
	var files []found
	removed, err := c.Store.Partials(func(p blobs.Partial) bool {
		size, _, ok := decodeNote(p.Note, p.Size)
		if ok = ok && !c.stored(p.Digest); ok {
			files = append(files, found{p.Digest, size, p.Modified, true})
		}
		return ok
	})
	if err != nil {
		return fmt.Errorf("remove unfinished downloads: %w", err)
	}
	partials := len(files)
	used := make(map[digest.Digest]time.Time)
	if err := c.Index.Used(func(d digest.Digest, at time.Time) { used[d] = at }); err != nil {
		c.indexFailed(err)
	}
	if err := c.Index.Verified(func(d digest.Digest, v index.Verified) { c.trust.known[d] = v }); err != nil {
		c.indexFailed(err)
	}
	var bytes int64
	err = c.Store.Walk(func(d digest.Digest, size int64, modified time.Time) error {
		if !c.plausible(d, size) {
			return c.Store.Remove(d)
		}
		if at, known := used[d]; known {
			modified = at
		}
		files = append(files, found{d, size, modified, false})
		bytes += size
		return nil
	})
	if err != nil {
		return fmt.Errorf("walk the blobs: %w", err)
	}
	c.forgetUsed(used, files)
	slices.SortFunc(files, func(a, b found) int { return cmp.Compare(a.used.UnixNano(), b.used.UnixNano()) })
	for _, f := range files {
		if f.partial {
			c.Ledger.AdoptPartial(f.digest, f.size, f.used)
		} else {
			c.Ledger.Adopt(f.digest, f.size, f.used)
		}
	}
	c.Log.Info("cache opened", "objects", len(files)-partials, "bytes", bytes, "unfinished", partials, "unfinished_removed", removed)
	return nil
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
func (c *Cache) forgetUsed(used map[digest.Digest]time.Time, files []found) {
	for _, f := range files {
		delete(used, f.digest)
	}
	for d := range used {
		c.trust.forget(d)
		if err := c.Index.Forget(d); err != nil {
			c.indexFailed(err)
			return
		}
	}
}
