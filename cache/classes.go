package cache

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/fill"
	"hubcap/cache/index"
)

// classes knows which of the blobs that are held are restricted, and the hosts
// they came from as far as these were looked up. What another registry says
// about a digest gives no right to the bytes: it may have made that up.
type classes struct {
	mu         sync.RWMutex
	restricted map[digest.Digest][]string // only the restricted blobs: most boxes have none
}

func (s *classes) of(d digest.Digest) blobs.Class {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, restricted := s.restricted[d]; restricted {
		return blobs.Restricted
	}
	return blobs.Public
}

// set sets the class of d. While the ledger holds d, the caller holds the lock of
// the digest.
func (s *classes) set(d digest.Digest, class blobs.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if class == blobs.Restricted {
		s.restricted[d] = nil
	} else {
		delete(s.restricted, d)
	}
}

// from notes that the restricted d came from host.
func (s *classes) from(d digest.Digest, host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hosts, restricted := s.restricted[d]; restricted && !slices.Contains(hosts, host) {
		s.restricted[d] = append(hosts, host)
	}
}

func (s *classes) isFrom(d digest.Digest, host string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Contains(s.restricted[d], host)
}

// CameFrom reports whether bytes that hash to d have come from host before.
func (c *Cache) CameFrom(d digest.Digest, host string) bool {
	if c.classes.isFrom(d, host) || c.manifests.isFrom(d, host) {
		return true
	}
	linked, err := c.o.Index.Linked(index.Origin{Registry: host}, d)
	if err != nil {
		c.indexFailed(err)
	}
	if linked {
		c.classes.from(d, host)
	}
	return linked
}

// noteFrom notes that d came from host, for CameFrom, if d is restricted. An empty
// host is none.
func (c *Cache) noteFrom(d digest.Digest, host string) {
	if host == "" || c.classes.of(d) == blobs.Public {
		return
	}
	c.classes.from(d, host)
	if err := c.o.Index.PutLink(index.Origin{Registry: host}, d); err != nil {
		c.indexFailed(err)
	}
}

// openFile opens the file of a held blob, of the given class: a client that was
// admitted because the blob was public gets no restricted file, even if the blob
// was replaced meanwhile.
func (c *Cache) openFile(d digest.Digest, class blobs.Class) (*os.File, blobs.Stat, error) {
	f, stat, err := c.o.Store.Open(d, class)
	if class == blobs.Restricted && errors.Is(err, fs.ErrNotExist) { // it was made public just now
		f, stat, err = c.o.Store.Open(d, blobs.Public)
	}
	return f, stat, err
}

// Confirm notes that the registry at want.Host has said it would give the blob
// to the client. It reports whether that is enough: a registry is believed only
// about what came from it. What it gives to every client is public from now on;
// for the rest the caller sets want.Granted.
func (c *Cache) Confirm(want Want) bool {
	f := c.fills.Of(want.Digest)
	if (f == nil || f.Want().Host != want.Host) && !c.CameFrom(want.Digest, want.Host) {
		return false
	}
	if !want.Restricted {
		c.reveal(want.Digest)
	}
	return true
}

// Uncached opens a blob at its source, even if it is stored.
func (c *Cache) Uncached(want Want) *Blob {
	return c.blob(want, c.fills.Uncached(want, want.Size, fill.ReasonRestricted))
}

// Proved notes that a blob of Uncached was sent to its end: bytes that hash to the
// digest came from want.Host.
func (c *Cache) Proved(want Want) {
	if want.Restricted {
		c.noteFrom(want.Digest, want.Host)
	} else {
		c.reveal(want.Digest)
	}
}

// reveal makes d public. If something else holds the lock of the digest, d may
// stay restricted until the next call.
func (c *Cache) reveal(d digest.Digest) {
	c.manifests.reveal(d)
	if f := c.fills.Of(d); f != nil {
		f.Reveal()
		return
	}
	unlock, free := c.digests.TryLock(d)
	if !free {
		return
	}
	c.revealLocked(d)
	unlock()
	c.Remove(d) // what was evicted while the lock was held
}

// revealLocked makes the file of d public. The caller holds the lock of the
// digest.
func (c *Cache) revealLocked(d digest.Digest) {
	if c.classes.of(d) == blobs.Public || !c.o.Ledger.Holds(d) {
		return
	}
	before, after, err := c.o.Store.Reveal(d)
	if err != nil {
		c.o.Log.Warn("a blob that has become public stays restricted", "digest", d, "err", err)
		return
	}
	c.trust.moved(d, before, after)
	c.classes.set(d, blobs.Public)
}
