package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/fill"
	"hubcap/eviction"
)

// Fetch fills a blob that no client has requested yet: with one connection, and
// under a bandwidth cap after those that clients have requested. It returns when
// the blob is stored. fetched is its size in bytes. It is -1 if another fill was
// running, if a client has requested the blob meanwhile, so that the fill
// continues for it, or if the blob is stored already or cannot be stored.
func (c *Cache) Fetch(ctx context.Context, want Want) (fetched int64, err error) {
	if want.Size > c.o.MaxBlob {
		return -1, nil
	}
	f, began, _ := c.unrequested(want)
	if !began {
		return -1, nil
	}
	select {
	case <-f.Requested():
		return -1, nil
	case <-f.Done():
	case <-ctx.Done():
		return -1, context.Cause(ctx)
	}
	switch size, err := f.Outcome(); {
	case errors.Is(err, fill.ErrAgain), errors.Is(err, ErrNotStored):
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
		f, began, err := c.unrequested(want)
		if err != nil {
			if _, unread := c.unread.find(want.Digest); unread {
				return 0, fmt.Errorf("%w: %w", ErrNotStored, fill.ErrUnreadable)
			}
			if errors.Is(err, fill.ErrStopped) {
				return 0, err
			}
			continue // it was stored between the two looks
		}
		select {
		case <-f.Done():
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		size, err := f.Outcome()
		switch {
		case began && err == nil:
			return size, nil
		case began && !errors.Is(err, fill.ErrAgain):
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: %w", ErrNotStored, fill.ErrAgain)
}

// unrequested is fill.Fills.Begin, also while the files are being counted.
func (c *Cache) unrequested(want Want) (f *fill.Fill, began bool, err error) {
	if c.walking() {
		c.discover(want.Digest)
	}
	return c.fills.Begin(want)
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
