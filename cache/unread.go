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
	"hubcap/cache/fill"
	"hubcap/metrics"
)

// maxUnread is how many unreadable files are remembered. If there are more, the
// whole disk has a problem, and it does not matter which files they are.
const maxUnread = 4096

// fewUnread is how many unreadable files in a row end a look at several files:
// the next ones would probably fail too.
const fewUnread = 3

// rereadInterval is how often unreadable files are tried again.
const rereadInterval = time.Minute

// unread are the held files that could not be read the last time, with the
// offset of the failure. A disk, and even more a file server, can fail to read a
// good file for a while: the file is kept, and its blob is fetched from the source
// until the file can be read or is replaced.
type unread struct {
	count atomic.Int64 // len(at), usually 0: read without the lock
	// replaced counts the files that a new one has taken the place of. Somebody for
	// whom a file fails, and who finds that this has grown since he opened it, opens
	// it again before he has it fetched.
	replaced atomic.Int64

	mu sync.Mutex
	at map[digest.Digest]int64
}

// add notes that the file of d cannot be read at the offset at. It reports
// whether that was unknown.
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

// remove notes that the file of d can be read, or was removed.
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

// unreadable handles the failure err of the held file of d at the offset at. A file
// that is missing or short is removed, and the error is errNotHeld. One that
// cannot be read now is kept, and the error is fill.ErrUnreadable. If the system can
// open no more files, which says nothing about this one, err is returned.
func (c *Cache) unreadable(d digest.Digest, at int64, err error) error {
	switch {
	case outOfHandles(err):
		return err
	case blobs.Absent(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.lost(d, -1, -1, err)
		return errNotHeld
	case !c.o.Ledger.Holds(d): // it is being evicted
		return errNotHeld
	}
	if c.unread.add(d, at) {
		c.o.Metrics.Checks.Ended(metrics.CheckUnreadable)
		c.o.Log.Warn("a cached file cannot be read; it is kept, and its blob is fetched", "digest", d, "offset", at, "err", err)
	}
	return fmt.Errorf("%w: %w", fill.ErrUnreadable, err)
}

// reread tries to read what could not be read.
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
	if !c.o.Ledger.Holds(d) {
		c.unread.remove(d)
		return false
	}
	f, _, err := c.openFile(d, c.classes.of(d))
	if err == nil {
		defer f.Close()
		buf := fill.Buffers.Get().(*[fill.BufferSize]byte)
		defer fill.Buffers.Put(buf)
		if _, err = f.ReadAt(buf[:], at); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		_ = c.unreadable(d, at, err) // removes a file that is missing now
		return false
	}
	c.unread.remove(d)
	return true
}
