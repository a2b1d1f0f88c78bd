package cache

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

// Want is what a request knows of the blob that it asks for.
type Want struct {
	Digest digest.Digest
	Source Source // see there: compared with ==
	Host   string // the registry that the source asks: connections and restricted content are counted by it
	Size   int64  // bytes, as the manifest says; negative if it does not. Only a hint for how to ask the source
	Off    int64  // of the first byte that the reader will read

	// Restricted says that the source gives the blob only to some clients: it is
	// stored as restricted content.
	Restricted bool
	// Granted says that Host would give the client the blob if it were
	// restricted. Without it, or if it came from another host, such a blob is
	// ErrRestricted. A source that is asked decides for itself.
	Granted bool
	// Repository is the one that a Restricted source asks in, all of which the
	// client may see. A fill that another request began there is joined
	// before it is known whether the blob exists.
	Repository string

	ours bool // hubcap itself reads it, and shows it to no client yet
}

// errNotHeld says that no file of a blob is stored.
var errNotHeld = errors.New("not held")

// errAgain says that another look for the blob may have another result.
var errAgain = errors.New("the blob was stored, or its fill ended, meanwhile")

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
	c.mu.Lock()
	_, filling := c.fills[want.Digest]
	c.mu.Unlock()
	if filling {
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
		want.shows(c.classes.of(want.Digest), func() bool { return c.CameFrom(want.Digest, want.Host) })
}

// MaxBlob returns the size in bytes of the largest blob that is stored.
func (c *Cache) MaxBlob() int64 { return c.o.MaxBlob }

// held opens a stored file. The error is errNotHeld, ErrRestricted, errUnreadable, or
// that of a system that can open no more files (outOfHandles).
func (c *Cache) held(want Want) (*Blob, error) {
	d := want.Digest
	size, known := c.o.Ledger.Touch(d)
	if !known && c.walking() {
		c.discover(d)
		size, known = c.o.Ledger.Touch(d)
	}
	if !known {
		return nil, errNotHeld
	}
	class := c.classes.of(d)
	if !want.shows(class, func() bool { return c.CameFrom(d, want.Host) }) {
		return nil, ErrRestricted
	}
	c.usage.touch(d)
	replaced := c.unread.replaced.Load()
	one := c.handles.acquire(d)
	f, stat, err := c.openFile(d, class)
	if err == nil && stat.Size == size {
		return &Blob{
			Size: size, Origin: Held, RecentlyWrong: c.wrong.has(d), cache: c, want: want,
			body: &held{
				cache: c, digest: d, size: size, trusted: c.trusted(d, stat.Signature),
				replaced: replaced, handle: one, file: f,
			},
		}, nil
	}
	c.handles.release(d, one)
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
		c.capacity.Saw(d, size, segment == eviction.Small, held || joined)
	}
}

// Capacity returns what share of requests and bytes a cache of advisor.Scales
// times the present size would answer; known is false while that cannot be said.
func (c *Cache) Capacity() (all []advisor.Estimate, known bool) {
	s := c.o.Ledger.Status()
	return c.capacity.Advice(s.Segments[eviction.Small].Share, s.Segments[eviction.Large].Share)
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
		if errors.Is(err, ErrWrongContent) {
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
// All of this is errAgain, and anything else is the answer. After maxTries the
// blob is read from this request's source.
func (c *Cache) openMissing(ctx context.Context, want Want, missing error, replaced int64) (*Blob, error) {
	for range maxTries {
		b, err := c.tryMissing(ctx, want, missing, replaced)
		if !errors.Is(err, errAgain) {
			return b, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		now := c.unread.replaced.Load()
		if errors.Is(missing, errUnreadable) && now == replaced {
			continue // the file is not tried again: a fill replaces it
		}
		replaced = now
		if b, missing = c.held(want); missing == nil {
			return b, nil
		}
	}
	return c.openUncached(ctx, want, errAgain)
}

// tryMissing is one try of openMissing.
func (c *Cache) tryMissing(ctx context.Context, want Want, missing error, replaced int64) (*Blob, error) {
	replace := errors.Is(missing, errUnreadable)
	switch {
	case errors.Is(missing, ErrRestricted):
		return nil, missing
	case !replace && !errors.Is(missing, errNotHeld): // the file is good, and cannot be opened now
		return c.openUncached(ctx, want, missing)
	}
	if !replace {
		replaced = -1
	}
	f, began, err := c.join(want, replaced)
	if err != nil {
		return nil, err
	}
	b, err := f.open(ctx, want, began)
	switch {
	case err == nil:
		return b, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !began && f.want.Source != want.Source: // this request's repository may have the blob
		return nil, fmt.Errorf("%w: %w", errAgain, err)
	}
	return nil, err
}

// openUncached opens the blob at its source, without a fill because of why. The
// source says how long it is.
func (c *Cache) openUncached(ctx context.Context, want Want, why error) (*Blob, error) {
	c.o.Log.Warn("a blob is streamed and not stored", "digest", want.Digest, "reason", uncachedDisk.String(), "err", why)
	stream, err := want.Source.Open(ctx, 0, -1)
	if err != nil {
		return nil, err
	}
	c.compareSizes(want, stream)
	return c.newUncached(want, stream.Size, stream, uncachedDisk), nil
}

// join returns the running fill of a digest, or starts one, and counts the caller
// in (fill.enter). The error is errAgain if the blob is stored by now: a fill
// commits before it leaves the list. If the stored file cannot be read and is to be
// replaced, replaced is unread.replaced from before that file was opened, and
// otherwise negative.
func (c *Cache) join(want Want, replaced int64) (f *fill, began bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fills[want.Digest]; f != nil {
		if !f.want.in(want.Repository) && !want.shows(f.classNow(), func() bool { return f.want.Host == want.Host }) {
			return nil, false, ErrRestricted
		}
		if f.enter() {
			c.o.Metrics.Fills.Joined()
			return f, false, nil
		}
	}
	if c.closed {
		return nil, false, errStopped
	}
	if c.o.Ledger.Holds(want.Digest) && c.unread.replaced.Load() != replaced {
		return nil, false, errAgain
	}
	f = newFill(c, want, replaced >= 0)
	f.enter()
	c.start(f)
	return f, true, nil
}

// start puts a fill on the list and runs it. c.mu is held.
func (c *Cache) start(f *fill) {
	c.fills[f.want.Digest] = f
	c.o.Metrics.Fills.Started()
	c.fillsRunning.Add(1)
	c.running.Go(func() {
		defer c.fillsRunning.Add(-1)
		f.run()
	})
}

// unlist takes a fill off the list, so that it is not joined any more.
func (c *Cache) unlist(f *fill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fills[f.want.Digest] == f {
		delete(c.fills, f.want.Digest)
	}
}
