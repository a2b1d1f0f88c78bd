package cache

import (
	"cmp"
	"errors"
	"runtime/debug"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/fill"
	"hubcap/cache/index"
)

// found is a file that was on disk at the start.
type found struct {
	digest digest.Digest
	size   int64
	used   int64 // nanoseconds since 1970
}

// byUse compares by last use, the oldest first.
func byUse(a, b found) int { return cmp.Compare(a.used, b.used) }

// walkGC is the GC percentage (see debug.SetGCPercent) during the walk, once it
// has found manyFiles.
const (
	walkGC    = 25
	manyFiles = 10_000
)

// begin starts the walk over the files, which are the truth. It returns at the
// end of the walk, or after StartWithin while the walk continues. Before its end
// nothing is evicted, the total that the index has counts as used, and a
// requested blob is looked for on disk. hubcap starts whatever is wrong with the
// files.
func (c *Cache) begin() {
	partials := c.partials()
	expected, known, err := c.o.Index.Total()
	if err != nil {
		c.indexFailed(err)
	}
	if !known {
		expected = c.o.Ledger.Status().Budget // the files may have any size
	}
	c.o.Ledger.BeginAdoption(expected)
	for _, p := range partials {
		c.o.Ledger.Adopt(p.digest, p.size, time.Unix(0, p.used), true)
	}
	c.running.Go(func() {
		defer close(c.walked)
		defer c.janitor.Wake()
		defer c.o.Ledger.EndAdoption()
		c.walk(partials)
	})
	late := time.NewTimer(c.o.StartWithin)
	defer late.Stop()
	select {
	case <-c.walked:
	case <-late.C:
		c.o.Log.Info("serving starts; the files are still being counted", "expected_bytes", expected)
	}
}

// partials returns the partial fills that can be resumed, and removes the rest.
func (c *Cache) partials() (kept []found) {
	removed, err := c.o.Store.Partials(func(p blobs.Partial) bool {
		if _, _, err := c.o.Store.Find(p.Digest); err == nil {
			return false // the whole blob is held
		}
		if p.NoteErr != nil {
			c.o.Log.Warn("the note of a partial fill cannot be read now; the partial fill is kept", "digest", p.Digest, "err", p.NoteErr)
			kept = append(kept, found{p.Digest, max(p.Size, p.Room), p.Modified.UnixNano()})
			return true
		}
		size, ok := fill.PartialSize(p.Note, p.Size)
		// A larger one would not be resumed, and a flipped bit in a note could
		// have everything evicted for it.
		if !ok || size > c.o.MaxBlob {
			return false
		}
		kept = append(kept, found{p.Digest, size, p.Modified.UnixNano()})
		return true
	})
	if removed > 0 {
		c.o.Log.Info("partial fills that cannot be resumed are removed", "count", removed)
	}
	if err != nil {
		c.o.Log.Warn("some partial fills cannot be read or removed; the next start tries again", "err", err)
	}
	return kept
}

// walk counts the files into the ledger, with their last use from the index, or
// else their modification time. It makes far more garbage than it keeps, which
// matters if there are many files: the rest then runs with a GC percentage of its
// own.
func (c *Cache) walk(partials []found) {
	end := func() {}
	defer func() { end() }()
	var objects, bytes int64
	var stuck error
	latest := time.Unix(0, 0)
	for _, p := range partials {
		latest = later(latest, time.Unix(0, p.used))
	}
	var known indexed
	err := c.o.Store.Walk(func(d digest.Digest, class blobs.Class, size int64, modified time.Time) error {
		if c.base.Err() != nil {
			return fill.ErrStopped
		}
		if dir := blobs.DirOf(d); dir != known.dir {
			known = c.indexedOf(dir)
		}
		if v, ok := known.verified[d]; ok {
			c.trust.learn(d, v)
		}
		if !c.plausible(d, size) {
			stuck = cmp.Or(stuck, c.removeFile(d))
			return nil
		}
		c.learnClass(d, class)
		at, ok := known.used[d]
		if !ok {
			at = modified
		}
		c.o.Ledger.Adopt(d, size, at, false)
		latest = later(latest, at)
		bytes += size
		if objects++; objects == manyFiles {
			end = saveMemory()
		}
		return nil
	})
	c.usage.learn(latest)
	if errors.Is(err, fill.ErrStopped) {
		return
	}
	c.counted.Store(true)
	c.unseen.Store(errors.Is(err, blobs.ErrUnseen))
	if err = errors.Join(err, stuck); err != nil { // what was not read may be readable the next time
		c.o.Log.Warn("some files cannot be counted or removed; the next start tries again", "err", err)
	} else {
		c.forgetGone()
	}
	c.o.Log.Info("cache opened", "objects", objects, "bytes", bytes, "partial", len(partials))
}

// saveMemory has the garbage collector run more often until the returned
// function is called, which gives the memory of the garbage back to the system:
// there is as much of it as is kept, and it is not needed again soon. Both are
// the whole process's.
func saveMemory() (end func()) {
	percent := debug.SetGCPercent(walkGC)
	return func() {
		debug.SetGCPercent(percent)
		debug.FreeOSMemory()
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// indexed is what the index has about the files of one directory. It is read a
// directory at a time, because all of it together is large.
type indexed struct {
	dir      string
	used     map[digest.Digest]time.Time
	verified map[digest.Digest]index.Verified
}

// indexedOf returns what the index has about the digests that begin with prefix.
func (c *Cache) indexedOf(prefix string) indexed {
	r := indexed{prefix, make(map[digest.Digest]time.Time), make(map[digest.Digest]index.Verified)}
	err := errors.Join(
		c.o.Index.Used(prefix, func(d digest.Digest, at time.Time) { r.used[d] = at }),
		c.o.Index.Verified(prefix, func(d digest.Digest, v index.Verified) { r.verified[d] = v }),
	)
	if err != nil {
		c.indexFailed(err)
	}
	return r
}

// walking reports whether there may be files that the ledger does not know yet.
func (c *Cache) walking() bool { return !isClosed(c.walked) || c.unseen.Load() }

// discover looks for a file that the ledger does not know yet.
func (c *Cache) discover(d digest.Digest) {
	if err := c.o.Index.Verified(d.String(), c.trust.learn); err != nil {
		c.indexFailed(err)
	}
	if class, size, err := c.o.Store.Find(d); err == nil && c.plausible(d, size) {
		c.learnClass(d, class)
		c.o.Ledger.Adopt(d, size, c.o.Now(), false)
	}
}

// plausible reports whether a file of d may have this size. An answer takes its
// length from the file, so a file of another size must not be held.
func (c *Cache) plausible(d digest.Digest, size int64) bool {
	right, known := c.trust.of(d)
	if known && size == right.Size || !known && (size > 0 || d == d.Algorithm().FromBytes(nil)) {
		return true
	}
	c.o.Log.Warn("a cached file has another length than it had, and is removed", "digest", d, "bytes", size, "want_bytes", right.Size)
	return false
}

// removeFile removes a file that the ledger does not know, unless the lock of
// its digest is held.
func (c *Cache) removeFile(d digest.Digest) error {
	unlock, free := c.digests.TryLock(d)
	if !free {
		return nil
	}
	defer unlock()
	if c.o.Ledger.Holds(d) {
		return nil
	}
	c.trust.forget(d)
	return c.o.Store.Remove(d)
}

// learnClass notes the class of a file that was found, unless the ledger holds
// the digest: then there is another file by now, or this one was made public.
func (c *Cache) learnClass(d digest.Digest, class blobs.Class) {
	if class == blobs.Public {
		return // the class of a digest that nothing is known of
	}
	if unlock, free := c.digests.TryLock(d); free {
		defer unlock()
		if !c.o.Ledger.Holds(d) {
			c.classes.set(d, class)
		}
	}
}

// forgetGone removes from the index what it has about files that no longer exist.
func (c *Cache) forgetGone() {
	var missing []digest.Digest
	note := func(d digest.Digest) {
		if !c.o.Ledger.Holds(d) {
			missing = append(missing, d)
		}
	}
	err := errors.Join(
		c.o.Index.Used("", func(d digest.Digest, _ time.Time) { note(d) }),
		c.o.Index.Verified("", func(d digest.Digest, _ index.Verified) { note(d) }),
	)
	for link, failed := range c.o.Index.Links() {
		if failed != nil {
			err = errors.Join(err, failed)
			break
		}
		note(link.Digest)
	}
	for _, d := range missing {
		unlock, free := c.digests.TryLock(d)
		if !free {
			continue
		}
		if !c.o.Ledger.Holds(d) {
			c.trust.forget(d)
			err = errors.Join(err, c.o.Index.Forget(d), c.o.Index.Unlink(d))
		}
		unlock()
		if err != nil {
			break
		}
	}
	if err != nil {
		c.indexFailed(err)
	}
}
