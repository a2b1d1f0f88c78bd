package cache

import (
	"context"
	"iter"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
)

// File is the stored file of a public blob. It is readable until Close, also if the
// blob is evicted meanwhile.
type File struct {
	*os.File
	Size int64 // bytes

	release func() // nil for none
}

// OpenPublic opens the file of a public blob for hubcap itself, which is no use of the
// blob. One that was not verified within VerifyInterval is verified before. The caller
// closes the file.
func (c *Cache) OpenPublic(ctx context.Context, d digest.Digest) (*File, error) {
	size, held := c.o.Ledger.Size(d)
	if !held || c.classes.of(d) != blobs.Public {
		return nil, errNotHeld
	}
	handle := c.files.Acquire(d)
	f, stat, err := c.o.Store.Open(d, blobs.Public)
	if err == nil && stat.Size != size {
		_ = f.Close()
		err = errNotHeld
	}
	if err == nil && !c.trusted(d, stat.Signature) {
		if err = c.check(d, stat.Signature).wait(ctx); err != nil {
			_ = f.Close()
		}
	}
	if err != nil {
		c.files.Release(d, handle)
		return nil, err
	}
	return &File{File: f, Size: size, release: func() { c.files.Release(d, handle) }}, nil
}

// OwnBlobs iterates over the public blobs that this box owns and stores, with their last
// use, in no order: layers and configs that a manifest names which is held. It waits until
// all files and manifests are known, and ends with ctx.
func (c *Cache) OwnBlobs(ctx context.Context) iter.Seq2[digest.Digest, time.Time] {
	return func(yield func(digest.Digest, time.Time) bool) {
		select {
		case <-c.learned:
		case <-ctx.Done():
			return
		}
		for o := range c.o.Ledger.Objects() {
			if ctx.Err() != nil {
				return
			}
			if _, named := c.edges.Named(o.Digest); o.Partial || !named || c.edges.Knows(o.Digest) ||
				c.classes.of(o.Digest) != blobs.Public || c.o.Guest != nil && c.o.Guest(o.Digest) {
				continue
			}
			if !yield(o.Digest, o.Used) {
				return
			}
		}
	}
}

// Close closes the file. It is called once.
func (f *File) Close() error {
	if f.release != nil {
		defer f.release()
	}
	return f.File.Close()
}
