package cache

import (
	"context"
	"errors"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// Want is what a request knows of the blob it asks for.
type Want struct {
	Digest digest.Digest
	Source Source // comparable, so that two requests with one source are known as such
	Host   string // the registry that the source asks: connections are counted by it
	Size   int64  // bytes, as the manifest says; negative when it does not. Only a hint for how to ask the source
	Off    int64  // of the first byte that the reader will ask for

	// Closed says that the source does not give the blob to everybody: what
	// comes from it is closed.
	Closed bool
	// Granted says that Host gives the blob to who asks, were it closed.
	// Without it such a blob is ErrClosed; and so is one that came from
	// another host. A source that is asked decides for itself.
	Granted bool
	// Repository is, of a Closed source, what it asks in and who asks may see
	// all of. What another request brings in from there is for this one too,
	// before anybody knows whether it is there.
	Repository string

	ours bool // hubcap itself asks, and shows it to nobody yet
}

// errNotHeld says that there is no whole file of a blob.
var errNotHeld = errors.New("not held")

// errAgain says that a fill has ended between the moment it was found and the
// moment it was opened: there is a file now, or nothing.
var errAgain = errors.New("the fill has just ended")

// Held opens the blob if its whole file is there. The error is ErrClosed where
// it is not shown to who asks; otherwise ok tells.
func (c *Cache) Held(want Want) (b *Blob, ok bool, err error) {
	b, err = c.held(want)
	if errors.Is(err, ErrClosed) {
		return nil, false, err
	}
	return b, err == nil, nil
}

// Has reports whether the blob is held or on its way, and shown to who asks. It
// looks at its file only where that could not be read the last time. It is no
// use of the blob.
func (c *Cache) Has(want Want) bool {
	c.mu.Lock()
	_, filling := c.fills[want.Digest]
	c.mu.Unlock()
	if filling {
		return true
	}
	if at, known := c.unread.find(want.Digest); known && !c.readable(want.Digest, at) {
		return false
	}
	return c.o.Ledger.Holds(want.Digest) &&
		want.shows(c.classes.of(want.Digest), func() bool { return c.CameFrom(want.Digest, want.Host) })
}

// held opens a whole file. The error is errNotHeld, ErrClosed, or one of
// opening a file that may well be good: errUnreadable, or that of a system which
// can open no more files.
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
		return nil, ErrClosed
	}
	c.usage.touch(d)
	one := c.handles.acquire(d)
	f, stat, err := c.openFile(d, class)
	if err == nil && stat.Size == size {
		trusted := c.trust.has(d, stat.Signature, c.o.Now(), c.o.VerifyInterval)
		return &Blob{
			Size: size, Origin: Held, Suspect: c.suspects.has(d), cache: c, want: want,
			body: &held{cache: c, digest: d, size: size, trusted: trusted, handle: one, file: f},
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

// Looked counts a request for an object of size bytes, and whether it was held.
func (c *Cache) Looked(size int64, held bool) {
	c.o.Metrics.Space.Looked(c.o.Ledger.Segment(size).String(), held)
}

// outOfHandles tells an error of a system that can open no more files from
// one of the file.
func outOfHandles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// lost gives up a file that is not what the ledger thinks it is, unless it is
// only being evicted at this moment.
func (c *Cache) lost(d digest.Digest, size, onDisk int64, err error) {
	if c.o.Ledger.Evict(d) {
		verdict := metrics.CheckUnreadable
		if errors.Is(err, ErrWrongContent) {
			verdict = metrics.CheckWrong
		}
		c.o.Metrics.Checks.Ended(verdict)
		c.o.Log.Warn("a cached file is damaged and will be fetched again", "digest", d, "bytes", onDisk, "want_bytes", size, "err", err)
		c.Remove(d)
	}
}

// Open opens the blob, beginning a fill or joining one where it is not held.
// It returns when the size is known. ctx bounds the waiting, not the fill. The
// error is ErrClosed, or the source's.
func (c *Cache) Open(ctx context.Context, want Want) (*Blob, error) {
	b, err := c.held(want)
	if err == nil {
		return b, nil
	}
	return c.bring(ctx, want, err)
}

// bring is Open for a blob whose file gave err. One that cannot be read is not
// tried again: a fill brings another one to take its place.
func (c *Cache) bring(ctx context.Context, want Want, err error) (b *Blob, _ error) {
	replace := errors.Is(err, errUnreadable)
	for tries := 0; ; tries++ {
		if !replace && tries > 0 {
			if b, err = c.held(want); err == nil {
				return b, nil
			}
			replace = errors.Is(err, errUnreadable)
		}
		if errors.Is(err, ErrClosed) {
			return nil, err
		}
		if !replace && !errors.Is(err, errNotHeld) {
			return c.past(ctx, want, err)
		}
		var f *fill
		var began bool
		if f, began, err = c.join(want, replace); err == nil {
			b, err = f.open(ctx, want, began)
		}
		if err == nil {
			return b, nil
		}
		// Another request's source may have failed where this one's would
		// not: its repository may not have the blob.
		again := errors.Is(err, errAgain) || f != nil && !began && f.want.Source != want.Source
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if again && tries >= maxTries {
			return c.alone(ctx, want, err)
		}
		if !again {
			return nil, err
		}
	}
}

// alone opens a blob that was always just coming or going. Where it is other
// requests' sources that fail, this one's own is asked before anything is said.
func (c *Cache) alone(ctx context.Context, want Want, cause error) (*Blob, error) {
	if errors.Is(cause, errAgain) {
		return c.past(ctx, want, cause)
	}
	return c.through(ctx, want, metrics.BypassDisk)
}

// through opens a blob that is streamed from its source and not kept, as long
// as the source says.
func (c *Cache) through(ctx context.Context, want Want, why metrics.Bypass) (*Blob, error) {
	stream, err := want.Source.Open(ctx, 0, -1)
	if err != nil {
		return nil, err
	}
	c.compareSizes(want, stream)
	return c.passing(want, stream.Size, stream, why), nil
}

// past opens, at its source, a blob whose good file cannot be opened now.
func (c *Cache) past(ctx context.Context, want Want, err error) (*Blob, error) {
	c.o.Log.Warn("a cached file cannot be opened and is streamed through", "digest", want.Digest, "err", err)
	return c.through(ctx, want, metrics.BypassDisk)
}

// maxTries is how often a blob is looked for again that came or went in the
// moment it was looked for.
const maxTries = 100

// join returns the fill of a digest, beginning it where there is none. The
// error is errAgain when the file is there after all: a fill commits before
// it is taken off the list. replace says that the file that is held cannot be
// read.
func (c *Cache) join(want Want, replace bool) (f *fill, began bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fills[want.Digest]; f != nil {
		if !f.want.in(want.Repository) && !want.shows(f.classNow(), func() bool { return f.want.Host == want.Host }) {
			return nil, false, ErrClosed
		}
		if f.enter() {
			c.o.Metrics.Fills.Joined()
			return f, false, nil
		}
	}
	if c.closed {
		return nil, false, errStopped
	}
	if c.o.Ledger.Holds(want.Digest) && !replace {
		return nil, false, errAgain
	}
	f = newFill(c, want)
	f.replaces = replace
	f.enter()
	c.start(f)
	return f, true, nil
}

// start puts a fill on the list and sets it to work. c.mu is held.
func (c *Cache) start(f *fill) {
	c.fills[f.want.Digest] = f
	c.o.Metrics.Fills.Started()
	c.fillsRunning.Add(1)
	c.running.Go(func() {
		defer c.fillsRunning.Add(-1)
		f.run()
	})
}

// Fetch brings in a blob that nobody has asked for yet: with one connection,
// and under a cap after what was asked for. It returns when the blob is held.
// brought is the blob's length in bytes, or -1 when it was not Fetch that
// brought it: another fill had begun, or somebody asked in the meantime, and
// the fill is now theirs and goes on. A blob that would not be kept is not
// fetched, which is no error.
func (c *Cache) Fetch(ctx context.Context, want Want) (brought int64, err error) {
	if want.Size > c.o.MaxBlob {
		return -1, nil
	}
	if c.walking() {
		c.discover(want.Digest)
	}
	c.mu.Lock()
	if c.fills[want.Digest] != nil || c.closed || c.o.Ledger.Holds(want.Digest) {
		c.mu.Unlock()
		return -1, nil
	}
	f := newFill(c, want)
	c.start(f)
	c.mu.Unlock()
	select {
	case <-f.asked:
		return -1, nil
	case <-f.over:
		switch err := f.failed(); {
		case errors.Is(err, errNotKept):
			return -1, nil
		case err != nil:
			return -1, err
		}
		return f.known(), nil
	case <-ctx.Done():
		return -1, context.Cause(ctx)
	}
}

// unlist takes a fill off the list of those that may be joined.
func (c *Cache) unlist(f *fill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fills[f.want.Digest] == f {
		delete(c.fills, f.want.Digest)
	}
}
