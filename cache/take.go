package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
)

// Size returns the size in bytes of the file of d; held is false if there is none.
// It is no use of it.
func (c *Cache) Size(d digest.Digest) (bytes int64, held bool) { return c.o.Ledger.Size(d) }

// TakeBlob notes that bytes which hash to want.Digest, and are stored, are content of
// want.Host: restricted content of it, or public. It is Proved for a caller that
// relies on it: where something else holds the lock of the digest, it waits.
func (c *Cache) TakeBlob(want Want) {
	d := want.Digest
	if want.Restricted {
		c.noteFrom(d, want.Host)
		return
	}
	if f := c.fills.Of(d); f != nil { // it replaces the file
		f.Reveal()
	}
	unlock := c.digests.Lock(d)
	c.manifests.reveal(d)
	c.revealLocked(d)
	unlock()
	c.Remove(d) // what was evicted while the lock was held
}

// TakeManifest is PutManifest for a caller that relies on it: it returns once the
// manifest is on disk. The error is ErrNotStored; then it may be in memory.
func (c *Cache) TakeManifest(one Manifest) error {
	parts := partsOf(one.Body)
	c.remember(one, parts)
	if err := c.store(one, parts); err != nil {
		return fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	return nil
}

// Spool is a file for bytes whose digest is not known yet. It has no name, so that
// nothing of it is left after a crash, and counts in the budget until Close.
type Spool struct {
	*os.File
	free func()
}

// Close frees the space.
func (s *Spool) Close() error {
	err := s.File.Close()
	s.free()
	return err
}

// Spool writes size bytes of r to a new Spool. The caller closes it. The error is
// ErrNotStored where there is no room, or r's own.
func (c *Cache) Spool(r io.Reader, size int64) (s *Spool, err error) {
	if size > c.o.MaxBlob {
		return nil, fmt.Errorf("%w: %w", ErrNotStored, eviction.ErrTooLarge)
	}
	if err := c.writable(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	if err := c.janitor.Reserve(size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	s = &Spool{free: func() { c.o.Ledger.Release(size) }}
	if s.File, err = os.CreateTemp(c.o.Store.Dir(), "spool-"); err != nil {
		s.free()
		return nil, fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	if err = os.Remove(s.Name()); err == nil {
		_, err = io.CopyN(s, r, size)
	}
	if err != nil {
		_ = s.Close()
		if errors.As(err, new(*fs.PathError)) {
			err = fmt.Errorf("%w: %w", ErrNotStored, err)
		}
		return nil, err
	}
	return s, nil
}
