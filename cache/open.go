package cache

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/fill"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

// errNotHeld says that no file of a blob is stored.
var errNotHeld = errors.New("not held")

// Held opens the blob if it is stored, as ok reports. The error is ErrRestricted if
// the client may not see it.
func (c *Cache) Held(want Want) (b *Blob, ok bool, err error) {
	b, err = c.held(want)
	if errors.Is(err, ErrRestricted) {
		return nil, false, err
	}
	return b, err == nil, nil
}

// Has reports whether the blob is stored or being filled, and the client may see
// it. It looks at the file only if that could not be read the last time. It does
// not count as a use of the blob.
func (c *Cache) Has(want Want) bool {
	if c.fills.Of(want.Digest) != nil {
		return true
	}
	want.Size = -1
	return c.Stored(want)
}

// Stored reports whether the blob is stored, in want.Size bytes if that is not
// negative, and the client may see it. Like Has, it is no use of the blob.
func (c *Cache) Stored(want Want) bool {
	if at, known := c.unread.find(want.Digest); known && !c.readable(want.Digest, at) {
		return false
	}
	size, held := c.o.Ledger.Size(want.Digest)
	return held && (want.Size < 0 || want.Size == size) &&
		want.Shows(c.classes.of(want.Digest), func() bool { return c.CameFrom(want.Digest, want.Host) })
}

// MaxBlob returns the size in bytes of the largest blob that is stored.
func (c *Cache) MaxBlob() int64 { return c.o.MaxBlob }

// held opens a stored file, or a small one in memory. The error is errNotHeld,
// ErrRestricted, fill.ErrUnreadable, or that of a system that can open no more files
// (outOfHandles).
func (c *Cache) held(want Want) (*Blob, error) {
	size, err := c.use(want)
	if err != nil {
		return nil, err
	}
	if size > smallFile {
		return c.heldFile(want, size)
	}
	if body, kept := c.small.Get(want.Digest); kept && int64(len(body)) == size {
		return c.blob(want, fill.Opened{Size: size, Origin: Held, Body: inMemory(body)}), nil
	}
	b, err := c.heldFile(want, size)
	if err != nil {
		return nil, err
	}
	if file := b.body.(*held); file.trusted {
		body, ok := c.keepSmall(want.Digest, file.file, b.Size)
		if file.trusted = ok; ok {
			b.Close()
			b.body = body
		} else {
			c.trust.forget(want.Digest) // it is verified when it is sent
		}
	}
	return b, nil
}

// use notes that want is to be sent, and returns its size in bytes. The error is
// errNotHeld or ErrRestricted.
func (c *Cache) use(want Want) (size int64, err error) {
	d := want.Digest
	size, known := c.o.Ledger.Touch(d)
	if !known && c.walking() {
		c.discover(d)
		size, known = c.o.Ledger.Touch(d)
	}
	if !known {
		return 0, errNotHeld
	}
	if !want.Shows(c.classes.of(d), func() bool { return c.CameFrom(d, want.Host) }) {
		return 0, ErrRestricted
	}
	c.usage.touch(d)
	return size, nil
}

// heldFile opens a stored file of size bytes, which use has returned, with the errors of
// held.
func (c *Cache) heldFile(want Want, size int64) (*Blob, error) {
	d := want.Digest
	replaced := c.unread.replaced.Load()
	one := c.files.Acquire(d)
	f, stat, err := c.openFile(d, c.classes.of(d))
	if err == nil && stat.Size == size {
		return c.blob(want, fill.Opened{Size: size, Origin: Held, Body: &held{
			cache: c, digest: d, size: size, signature: stat.Signature, trusted: c.trusted(d, stat.Signature),
			replaced: replaced, handle: one, file: f,
		}}), nil
	}
	c.files.Release(d, one)
	if err != nil {
		return nil, c.unreadable(d, 0, err)
	}
	_ = f.Close()
	c.lost(d, size, stat.Size, err)
	return nil, errNotHeld
}

// Looked counts a request for an object of size bytes, and whether it was stored
// or, if not, joined a running fill. The digest of what is no object, such as a
// list, is empty.
func (c *Cache) Looked(d digest.Digest, size int64, held, joined bool) {
	segment := c.o.Ledger.Segment(size)
	c.o.Metrics.Space.Looked(segment.String(), held)
	if d != "" && size <= c.o.MaxBlob { // a larger cache would not store it either
		c.capacity.Saw(d, size, segment == eviction.Small, held, joined)
	}
}

// Capacity returns what caches of advisor.Scales times the present size would
// answer; known is false while that cannot be said.
func (c *Cache) Capacity() (a advisor.Advice, known bool) {
	s := c.o.Ledger.Status()
	_, held := s.Held()
	return c.capacity.Advice(s.Segments[eviction.Small].Share, s.Segments[eviction.Large].Share, held)
}

// outOfHandles reports whether err says that the system can open no more files. It
// says nothing of the file.
func outOfHandles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// lost removes a file that is not what the ledger says, unless it is just being
// evicted.
func (c *Cache) lost(d digest.Digest, size, onDisk int64, err error) {
	if c.o.Ledger.Evict(d) {
		c.gone.note(d, c.o.Now(), true)
		result := metrics.CheckUnreadable
		if errors.Is(err, fill.ErrWrongContent) {
			result = metrics.CheckWrong
		}
		c.o.Metrics.Checks.Ended(result)
		c.o.Log.Warn("a cached file is damaged and will be fetched again", "digest", d, "bytes", onDisk, "want_bytes", size, "err", err)
		c.Remove(d)
	}
}

// Open opens the blob. If it is not stored, it starts a fill or joins one. It
// returns when the size is known, or is known to be unknown before the end. ctx
// bounds the waiting and not the fill. The error is ErrRestricted, ctx's cause or the
// source's.
func (c *Cache) Open(ctx context.Context, want Want) (*Blob, error) {
	replaced := c.unread.replaced.Load()
	b, err := c.held(want)
	if err == nil {
		return b, nil
	}
	return c.openMissing(ctx, want, err, replaced)
}

// maxTries is how often a blob is looked for that is stored, evicted, or fails
// with the sources of other requests, each time between two looks.
const maxTries = 100

// openMissing is Open for a blob that held did not open because of missing.
// replaced is unread.replaced before that.
//
// It takes several tries because a blob is in one of two places, the ledger and
// the list of fills, which are not looked at under one lock: a fill may end
// between the two looks, or between the second one and the opening of its file.
// And a fill that was joined may fail where this request's own source would not.
// All of this is fill.ErrAgain, and anything else is the answer. After maxTries the
// blob is read from this request's source.
func (c *Cache) openMissing(ctx context.Context, want Want, missing error, replaced int64) (*Blob, error) {
	for range maxTries {
		b, err := c.tryMissing(ctx, want, missing, replaced)
		if !errors.Is(err, fill.ErrAgain) {
			return b, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		now := c.unread.replaced.Load()
		if errors.Is(missing, fill.ErrUnreadable) && now == replaced {
			continue // the file is not tried again: a fill replaces it
		}
		replaced = now
		if b, missing = c.held(want); missing == nil {
			return b, nil
		}
	}
	return c.openUncached(ctx, want, fill.ErrAgain)
}

// tryMissing is one try of openMissing.
func (c *Cache) tryMissing(ctx context.Context, want Want, missing error, replaced int64) (*Blob, error) {
	replace := errors.Is(missing, fill.ErrUnreadable)
	switch {
	case errors.Is(missing, ErrRestricted):
		return nil, missing
	case !replace && !errors.Is(missing, errNotHeld): // the file is good, and cannot be opened now
		return c.openUncached(ctx, want, missing)
	}
	if !replace {
		replaced = -1
	}
	f, began, err := c.fills.Join(want, replace, func() bool { return c.stored(want.Digest, replaced) })
	if err != nil {
		return nil, err
	}
	o, err := f.Open(ctx, want, began)
	switch {
	case err == nil:
		return c.blob(want, o), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !began && f.Want().Source != want.Source: // this request's repository may have the blob
		return nil, fmt.Errorf("%w: %w", fill.ErrAgain, err)
	}
	return nil, err
}

// blob returns what was opened for want as a Blob.
func (c *Cache) blob(want Want, o fill.Opened) *Blob {
	return &Blob{Size: o.Size, Origin: o.Origin, Place: o.Place, RecentlyWrong: c.fills.RecentlyWrong(want.Digest), cache: c, want: want, body: o.Body}
}

// openUncached opens the blob at its source, without a fill because of why.
func (c *Cache) openUncached(ctx context.Context, want Want, why error) (*Blob, error) {
	o, err := c.fills.OpenUncached(ctx, want, why)
	if err != nil {
		return nil, err
	}
	return c.blob(want, o), nil
}

// stored reports whether the blob is stored. If the stored file cannot be read and
// is to be replaced, replaced is unread.replaced from before that file was opened,
// and otherwise negative.
func (c *Cache) stored(d digest.Digest, replaced int64) bool {
	return c.o.Ledger.Holds(d) && c.unread.replaced.Load() != replaced
}
