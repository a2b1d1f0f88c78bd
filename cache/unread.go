package cache

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/metrics"
)

// maxUnread is how many unreadable files are remembered. When there are more,
// the disk as a whole is in trouble, and which files they are does not matter.
const maxUnread = 4096

// fewUnread is how many files in a row that cannot be read end a look at
// several of them: the next ones will hardly be better.
const fewUnread = 3

// rereadInterval is how often unreadable files are tried again.
const rereadInterval = time.Minute

// unread are the held files that could not be read the last time, and the
// offset at which that was. A disk, and a file server even more so, can fail to
// read what is good: such a file is left, and its blob is fetched from the
// source until the file can be read or another one has taken its place.
type unread struct {
	count atomic.Int64 // as a rule 0, which is known without the lock

	mu sync.Mutex
	at map[digest.Digest]int64
}

// add notes that the file of d cannot be read at the offset at. It reports
// whether that is news.
func (u *unread) add(d digest.Digest, at int64) (news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.at[d]; known || len(u.at) == maxUnread {
		return !known
	}
	u.at[d] = at
	u.count.Store(int64(len(u.at)))
	return true
}

// remove notes that the file of d can be read, or is gone.
func (u *unread) remove(d digest.Digest) {
	if u.count.Load() == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.at, d)
	u.count.Store(int64(len(u.at)))
}

// find returns where the file of d could not be read, if it could not.
func (u *unread) find(d digest.Digest) (at int64, known bool) {
	if u.count.Load() == 0 {
		return 0, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	at, known = u.at[d]
	return at, known
}

func (u *unread) all() map[digest.Digest]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.at)
}

// unreadable decides what becomes of the held file of d, which failed with err
// at the offset at. A file that is missing or short is removed, and the error is
// errNotHeld. One that cannot be read now is left, and the error is
// errUnreadable. An error of a system that can open no more files says nothing
// of this one, and is returned as it is.
func (c *Cache) unreadable(d digest.Digest, at int64, err error) error {
	switch {
	case outOfHandles(err):
		return err
	case blobs.Absent(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.lost(d, -1, -1, err)
		return errNotHeld
	case !c.Ledger.Holds(d): // it is being evicted
		return errNotHeld
	}
	if c.unread.add(d, at) {
		c.Metrics.Checks.Ended(metrics.CheckUnreadable)
		c.Log.Warn("a cached file cannot be read; it is left, and its blob is fetched", "digest", d, "offset", at, "err", err)
	}
	return fmt.Errorf("%w: %w", errUnreadable, err)
}

// reread tries what could not be read.
func (c *Cache) reread() {
	failed := 0
	for d, at := range c.unread.all() {
		if failed == fewUnread || c.base.Err() != nil {
			return
		}
		if c.readable(d, at) {
			failed = 0
		} else {
			failed++
		}
	}
}

// readable reports whether the file of d can be read at the offset at, where it
// could not, and forgets the failure when it can.
func (c *Cache) readable(d digest.Digest, at int64) bool {
	if !c.Ledger.Holds(d) {
		c.unread.remove(d)
		return false
	}
	f, _, err := c.openFile(d, c.classes.of(d))
	if err == nil {
		defer f.Close()
		buf := buffers.Get().(*[buffer]byte)
		defer buffers.Put(buf)
		if _, err = f.ReadAt(buf[:], at); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		_ = c.unreadable(d, at, err) // removes what has gone meanwhile
		return false
	}
	c.unread.remove(d)
	return true
}
