package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
)

// ErrNotStored says that a blob was fetched, or could have been, and is not stored.
var ErrNotStored = errors.New("it cannot be stored")

// Fetch fills a blob that no client has requested yet: with one connection, and
// under a bandwidth cap after those that clients have requested. It returns when
// the blob is stored. fetched is its size in bytes. It is -1 if another fill was
// running, if a client has requested the blob meanwhile, so that the fill
// continues for it, or if the blob is stored already or cannot be stored.
func (c *Cache) Fetch(ctx context.Context, want Want) (fetched int64, err error) {
	if want.Size > c.o.MaxBlob {
		return -1, nil
	}
	f, began := c.unrequested(want)
	if !began {
		return -1, nil
	}
	select {
	case <-f.requested:
		return -1, nil
	case <-f.done:
	case <-ctx.Done():
		return -1, context.Cause(ctx)
	}
	switch size, err := f.outcome(); {
	case errors.Is(err, errAgain), errors.Is(err, ErrNotStored):
		return -1, nil
	case err != nil:
		return -1, err
	default:
		return size, nil
	}
}

// Obtain is Fetch for a caller that needs the blob on disk: it waits for a fill that
// runs, whoever began it. fetched is 0 if the blob was stored already, or by
// another's fill. It counts as a use of the blob. The error is ErrRestricted,
// ErrNotStored, ctx's cause or the source's.
func (c *Cache) Obtain(ctx context.Context, want Want) (fetched int64, err error) {
	for range maxTries {
		b, held, err := c.Held(want)
		if held {
			b.Close()
		}
		if held || err != nil {
			return 0, err
		}
		if want.Size > c.o.MaxBlob {
			return 0, fmt.Errorf("%w: %w", ErrNotStored, eviction.ErrTooLarge)
		}
		f, began := c.unrequested(want)
		if f == nil {
			if _, unread := c.unread.find(want.Digest); unread {
				return 0, fmt.Errorf("%w: %w", ErrNotStored, errUnreadable)
			}
			if c.isClosed() {
				return 0, errStopped
			}
			continue // it was stored between the two looks
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		size, err := f.outcome()
		switch {
		case began && err == nil:
			return size, nil
		case began && !errors.Is(err, errAgain):
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: %w", ErrNotStored, errAgain)
}

// unrequested returns the running fill of a blob, or begins one that no client has
// requested; nil if the blob is stored, or after Close.
func (c *Cache) unrequested(want Want) (f *fill, began bool) {
	if c.walking() {
		c.discover(want.Digest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fills[want.Digest]; f != nil {
		return f, false
	}
	if c.closed || c.o.Ledger.Holds(want.Digest) {
		return nil, false
	}
	f = newFill(c, want, false)
	c.start(f)
	return f, true
}

// outcome returns the size of the blob that an ended fill has stored, or why it has
// stored none: errAgain if the blob was stored meanwhile.
func (f *fill) outcome() (size int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == stateUncached {
		return 0, fmt.Errorf("%w: %w", ErrNotStored, f.err)
	}
	return f.size, f.err
}

func (c *Cache) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// StoreManifest returns once the held manifest d is on disk. PutManifest writes it
// in the background; this is for a caller that relies on it.
func (c *Cache) StoreManifest(d digest.Digest) error {
	if c.o.Ledger.Holds(d) {
		return nil
	}
	one, held := c.Manifest(d)
	if !held {
		return errNotHeld
	}
	if err := c.store(one, partsOf(one.Body)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	return nil
}
