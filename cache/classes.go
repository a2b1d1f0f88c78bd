package cache

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/metrics"
)

// ErrClosed says that a blob is here for those who may have it from the
// registry that it came from, and that the request has not shown to be one of
// them.
var ErrClosed = errors.New("the blob is not for everybody")

// classes knows which of the blobs that are held are closed, and from which
// hosts they came as far as that has been looked up. What another registry
// says of a digest gives no right to the bytes: it may have made that up.
type classes struct {
	mu     sync.RWMutex
	closed map[digest.Digest][]string // a set, because at most places there are none
}

func (s *classes) of(d digest.Digest) blobs.Class {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, closed := s.closed[d]; closed {
		return blobs.ClassClosed
	}
	return blobs.ClassOpen
}

// set is called before the ledger holds d, and while it does only by who holds
// the digest's lock.
func (s *classes) set(d digest.Digest, class blobs.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if class == blobs.ClassClosed {
		s.closed[d] = nil
	} else {
		delete(s.closed, d)
	}
}

// from notes that the closed d came from host.
func (s *classes) from(d digest.Digest, host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hosts, closed := s.closed[d]; closed && !slices.Contains(hosts, host) {
		s.closed[d] = append(hosts, host)
	}
}

func (s *classes) isFrom(d digest.Digest, host string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Contains(s.closed[d], host)
}

// CameFrom tells whether bytes that hash to d came from host, for some.
func (c *Cache) CameFrom(d digest.Digest, host string) bool {
	if c.classes.isFrom(d, host) || c.manifests.isFrom(d, host) {
		return true
	}
	linked, err := c.Index.Linked(index.Origin{Registry: host}, d)
	if err != nil {
		c.indexFailed(err)
	}
	if linked {
		c.classes.from(d, host)
	}
	return linked
}

// noteFrom is what CameFrom tells from now on.
func (c *Cache) noteFrom(d digest.Digest, host string) {
	if c.classes.of(d) == blobs.ClassOpen {
		return
	}
	c.classes.from(d, host)
	if err := c.Index.PutLink(index.Origin{Registry: host}, d); err != nil {
		c.indexFailed(err)
	}
}

// shows tells whether a blob of the class, which came from a host if from says
// so, is shown to who asks.
func (w *Want) shows(class blobs.Class, from func() bool) bool {
	return class == blobs.ClassOpen || w.ours || w.Granted && from()
}

// in tells whether the source asks in the repository, which is not for
// everybody.
func (w *Want) in(repository string) bool { return repository != "" && w.Repository == repository }

// openFile opens the file of a blob that is held, as one of the given class:
// who was let in because the blob was open is given no closed file, whatever
// has become of the blob meanwhile.
func (c *Cache) openFile(d digest.Digest, class blobs.Class) (*os.File, blobs.Stat, error) {
	f, stat, err := c.Store.Open(d, class)
	if class == blobs.ClassClosed && errors.Is(err, fs.ErrNotExist) { // it has been revealed just now
		f, stat, err = c.Store.Open(d, blobs.ClassOpen)
	}
	return f, stat, err
}

// Confirm notes that the registry at want.Host has said it would give the blob
// to who asks. It tells whether that is enough: the registry is believed about
// what came from it. What it gives to anybody is open from now on; who asks for
// what it gives to some is Granted it.
func (c *Cache) Confirm(want Want) bool {
	c.mu.Lock()
	f := c.fills[want.Digest]
	c.mu.Unlock()
	if (f == nil || f.want.Host != want.Host) && !c.CameFrom(want.Digest, want.Host) {
		return false
	}
	if !want.Closed {
		c.reveal(want.Digest)
	}
	return true
}

// Uncached opens a blob at its source, even if it is stored.
func (c *Cache) Uncached(want Want) *Blob {
	return c.newUncached(want, want.Size, nil, metrics.UncachedClosed)
}

// Proved notes that a blob of Uncached was sent to its end: bytes that hash to the
// digest came from want.Host.
func (c *Cache) Proved(want Want) {
	if want.Closed {
		c.noteFrom(want.Digest, want.Host)
	} else {
		c.reveal(want.Digest)
	}
}

// reveal notes that anybody may have d. What is at work on d at the moment may
// keep it closed until it is revealed the next time.
func (c *Cache) reveal(d digest.Digest) {
	c.manifests.reveal(d)
	c.mu.Lock()
	f := c.fills[d]
	c.mu.Unlock()
	if f != nil {
		f.reveal()
		return
	}
	unlock, free := c.locks.tryLock(d)
	if !free {
		return
	}
	c.revealLocked(d)
	unlock()
	c.Remove(d) // what was doomed while the lock was held
}

// revealLocked is reveal of a file, for who holds the digest.
func (c *Cache) revealLocked(d digest.Digest) {
	if c.classes.of(d) == blobs.ClassOpen || !c.Ledger.Holds(d) {
		return
	}
	before, after, err := c.Store.Reveal(d)
	if err != nil {
		c.Log.Warn("a blob that has become public stays closed", "digest", d, "err", err)
		return
	}
	c.trust.moved(d, before, after)
	c.classes.set(d, blobs.ClassOpen)
}

// reveal has what the fill brings be for everybody.
func (f *fill) reveal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.class = blobs.ClassOpen
}

func (f *fill) classNow() blobs.Class {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.class
}

// classed notes the class of what was committed, before the ledger holds it.
func (c *Cache) classed(d digest.Digest, class blobs.Class, host string) {
	c.classes.set(d, class)
	if class == blobs.ClassClosed {
		c.noteFrom(d, host)
	}
}
