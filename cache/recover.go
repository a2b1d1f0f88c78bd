package cache

import (
	"cmp"
	"errors"
	"runtime/debug"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/index"
)

// found is a file that lay there at the start.
type found struct {
	digest digest.Digest
	size   int64
	used   int64 // nanoseconds since 1970
}

// byUse sorts what was used longest ago first.
func byUse(a, b found) int { return cmp.Compare(a.used, b.used) }

// walkGC is how much garbage the walk may leave, in percent of what is kept.
const walkGC = 25

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
		c.takeUp(partials)
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
		if _, _, err := c.Store.Find(p.Digest); err == nil {
			return false // it is held whole
		}
		if p.NoteErr != nil {
			c.Log.Warn("an unfinished download's note cannot be read now; it stays where it is", "digest", p.Digest, "err", p.NoteErr)
			kept = append(kept, found{p.Digest, max(p.Size, p.Room), p.Modified.UnixNano()})
			return true
		}
		n, _, ok := decodeNote(p.Note, p.Size)
		// One that is larger than any blob that is kept is not taken up, and a
		// bit that has flipped in a note could have everything evicted for it.
		if !ok || n.Size > c.MaxBlob {
			return false
		}
		kept = append(kept, found{p.Digest, n.Size, p.Modified.UnixNano()})
		return true
	})
	if removed > 0 {
		c.Log.Info("unfinished downloads that cannot go on are removed", "count", removed)
	}
	if err != nil {
		c.Log.Warn("some unfinished downloads cannot be looked at or removed; the next start tries again", "err", err)
	}
	return kept
}

// takeUp counts the files into the ledger: with their last use as far as the
// index knows it, with their making where it does not. It makes far more
// garbage than it keeps, and the process is not to grow for it.
func (c *Cache) takeUp(partials []found) {
	defer debug.SetGCPercent(debug.SetGCPercent(walkGC))
	var objects, bytes int64
	var stuck error
	latest := time.Unix(0, 0)
	for _, p := range partials {
		latest = later(latest, time.Unix(0, p.used))
	}
	var known recollection
	err := c.Store.Walk(func(d digest.Digest, class blobs.Class, size int64, modified time.Time) error {
		if c.base.Err() != nil {
			return errStopped
		}
		if dir := blobs.DirOf(d); dir != known.dir {
			known = c.recollect(dir)
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
		c.Ledger.Adopt(d, size, at, false)
		latest = later(latest, at)
		objects++
		bytes += size
		return nil
	})
	c.usage.learn(latest)
	if errors.Is(err, errStopped) {
		return
	}
	c.counted.Store(true)
	c.unseen.Store(errors.Is(err, blobs.ErrUnseen))
	if err = errors.Join(err, stuck); err != nil { // what was not seen may be there the next time
		c.Log.Warn("some files cannot be counted or removed; the next start tries again", "err", err)
	} else {
		c.forgetGone()
	}
	debug.FreeOSMemory() // the walk leaves as much garbage as it keeps, and nothing soon needs that much again
	c.Log.Info("cache opened", "objects", objects, "bytes", bytes, "unfinished", len(partials))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// recollection is what the index knows of the files of one directory. It is
// taken a directory at a time, because all of it is large.
type recollection struct {
	dir      string
	used     map[digest.Digest]time.Time
	verified map[digest.Digest]index.Verified
}

// recollect asks the index for the digests that begin with prefix.
func (c *Cache) recollect(prefix string) recollection {
	r := recollection{prefix, make(map[digest.Digest]time.Time), make(map[digest.Digest]index.Verified)}
	err := errors.Join(
		c.Index.Used(prefix, func(d digest.Digest, at time.Time) { r.used[d] = at }),
		c.Index.Verified(prefix, func(d digest.Digest, v index.Verified) { r.verified[d] = v }),
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
	if err := c.Index.Verified(d.String(), c.trust.learn); err != nil {
		c.indexFailed(err)
	}
	if class, size, err := c.Store.Find(d); err == nil && c.plausible(d, size) {
		c.learnClass(d, class)
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

// learnClass takes the class of a file that was found, unless the ledger knows
// the digest: then there is another file by now, or this one was revealed.
func (c *Cache) learnClass(d digest.Digest, class blobs.Class) {
	if class == blobs.ClassOpen {
		return // as all are that nothing is known of
	}
	if unlock, free := c.locks.tryLock(d); free {
		defer unlock()
		if !c.Ledger.Holds(d) {
			c.classes.set(d, class)
		}
	}
}

// forgetGone removes what the index knows of files that are gone.
func (c *Cache) forgetGone() {
	var gone []digest.Digest
	note := func(d digest.Digest) {
		if !c.Ledger.Holds(d) {
			gone = append(gone, d)
		}
	}
	err := errors.Join(
		c.Index.Used("", func(d digest.Digest, _ time.Time) { note(d) }),
		c.Index.Verified("", func(d digest.Digest, _ index.Verified) { note(d) }),
	)
	for link, failed := range c.Index.Links() {
		if failed != nil {
			err = errors.Join(err, failed)
			break
		}
		note(link.Digest)
	}
	for _, d := range gone {
		unlock, free := c.locks.tryLock(d)
		if !free {
			continue
		}
		if !c.Ledger.Holds(d) {
			c.trust.forget(d)
			err = errors.Join(err, c.Index.Forget(d), c.Index.Unlink(d))
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
