// Package cache is what hubcap holds: blobs in files, manifests in memory and
// in files, and the fills that bring them in. It knows digests, offsets and
// sources; it knows neither HTTP nor registries nor tags.
//
// A blob is read while it is filled. One fill serves every reader of its
// digest, belongs to no request, and lets nobody read the last bytes before
// all of them are known to hash to the digest.
//
// Files: cache.go (the whole; opening a blob), source.go (where bytes come
// from, through breaks), fill.go (one download), plan.go and writers.go (who
// brings which bytes), spans.go (which bytes are there), partial.go (downloads
// that go on another time), hasher.go (the verdict), reader.go (one reader of a
// held or growing file), passing.go (what cannot be kept), manifests.go,
// remove.go (eviction's hand), classes.go (who may see
// what is held), recover.go (the start), usage.go (last use),
// verify.go and scrub.go (files at rest), suspects.go, locks.go, disk.go (the
// file system's condition).
package cache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/metrics"
)

// tail is how many bytes at the end of a blob nobody is given before the
// digest is right. It is what a client waits for after a slow last byte; less
// than it, no client mistakes for a whole layer.
const tail = 64 << 10

// Chunk is the most that is sent to a client in one go, in bytes, so that its
// write deadline can move with its progress.
const Chunk = 1 << 20

// Options is what a Cache needs; every field is required.
type Options struct {
	Store          *blobs.Store
	Index          *index.Index
	Ledger         *eviction.Ledger
	MinFree        int64         // bytes that stay free in the file system
	Reserve        int64         // bytes free below which the file system counts as full
	Ballast        int64         // bytes set aside for that case; 0 for none
	Growth         int64         // bytes of the budget that are left for notes, and for what the index takes between two looks
	MaxBlob        int64         // bytes of the largest blob that is kept
	ManifestMemory int64         // bytes of manifests kept in memory
	FlushInterval  time.Duration // how often last use goes to the index
	SweepInterval  time.Duration // how often the index is measured, and what is too much evicted
	StartWithin    time.Duration // how long New waits for the files to be counted
	Connections    int           // writers of one fill, at least 1; 1 asks for no ranges
	MaxFills       int           // at a time; more wait for their turn
	MaxConnections int           // of all fills together
	MaxPerHost     int           // of the fills from one host
	Bandwidth      int64         // bytes a second from all sources together; 0 for no cap
	VerifyInterval time.Duration // how long a verified file is trusted
	Now            func() time.Time
	Patience       time.Duration // with a writer that gets nothing while the fill's others do
	Metrics        *metrics.Metrics
	Log            *slog.Logger
}

// Cache is what is held and what is being brought in. Its methods may be
// called at any time by anyone.
type Cache struct {
	Options
	janitor   *eviction.Janitor
	manifests *manifests
	usage     *usage
	classes   classes
	suspects  suspects
	trust     *trust
	slots     *slots // of connections
	turns     *slots // of fills
	pacer     *pacer
	disk      disk
	walked    chan struct{} // closed when the walk has ended
	counted   atomic.Bool   // the ledger knows all files: the walk was not ended before it had seen them

	locks   locks   // a digest's fill against its removal
	handles handles // open files

	base    context.Context // of every fill; ended by Close
	stop    context.CancelCauseFunc
	running sync.WaitGroup // fills, manifests on their way to disk, the janitor

	mu     sync.Mutex
	fills  map[digest.Digest]*fill // those that a reader may join
	closed bool                    // nothing new begins
}

// errStopped ends the fills at shutdown.
var errStopped = errors.New("hubcap is shutting down")

// New takes up what the store holds and sets the janitor to work. Close ends
// it.
func New(o Options) *Cache {
	base, stop := context.WithCancelCause(context.Background())
	c := &Cache{
		Options:   o,
		manifests: newManifests(o.ManifestMemory),
		usage:     newUsage(o.Now),
		classes:   classes{closed: make(map[digest.Digest][]string)},
		suspects:  newSuspects(),
		trust:     newTrust(),
		slots:     newSlots(o.MaxConnections, o.MaxPerHost),
		turns:     newSlots(o.MaxFills, turnsOfHost(o.MaxFills)),
		pacer:     newPacer(o.Bandwidth),
		walked:    make(chan struct{}),
		locks:     locks{held: make(map[digest.Digest]*digestLock)},
		handles:   handles{open: make(map[digest.Digest]*handle)},
		base:      base,
		stop:      stop,
		fills:     make(map[digest.Digest]*fill),
	}
	c.janitor = eviction.NewJanitor(eviction.JanitorOptions{
		Ledger: o.Ledger, Remover: c, Free: o.Store.Free, MinFree: o.MinFree,
		Overhead: func() int64 { return o.Index.DiskBytes() + o.Store.Ballast() + o.Growth },
		Interval: o.SweepInterval, Log: o.Log,
	})
	c.begin()
	o.Metrics.Space.Watch(o.Ledger.Stats)
	c.running.Go(func() { c.janitor.Run(base) })
	c.running.Go(func() { every(base, o.FlushInterval, func() { c.usage.flush(c) }) })
	c.running.Go(func() { c.scrub(base) })
	c.running.Go(func() { c.watchDisk(base) })
	return c
}

// Close ends the fills, whose readers are cut short, and writes out what the
// index should know. The store and the index stay open.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop(errStopped)
	c.running.Wait()
	c.usage.flush(c)
}

// work has do done beside everything else, unless nothing new begins any more.
func (c *Cache) work(do func()) (begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(do)
	return true
}

// Want is what a request knows of the blob it asks for.
type Want struct {
	Digest digest.Digest
	Source Source // comparable, so that two requests with one source are known as such
	Host   string // the registry that the source asks: connections are counted by it
	Size   int64  // bytes, as the manifest says; negative when it is not known
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

// Origin is where a blob's bytes come from.
type Origin uint8

// The origins.
const (
	Held    Origin = iota // a whole, verified file
	Filling               // a fill that this request began
	Joined                // a fill that another request began
	Passing               // the source, past the cache
)

// Sink is where bytes go: the answer to one client. FlushError sends what has
// been written before it waits for more.
type Sink interface {
	io.Writer
	FlushError() error
}

// ErrWrongContent says that the bytes do not hash to the digest. The reader
// was given all but the end of them.
var ErrWrongContent = errors.New("the content does not hash to its digest")

// ErrSource marks a failure of this room that is the source's.
var ErrSource = errors.New("the source failed")

// Blob is an open blob, for one reader.
type Blob struct {
	Size    int64 // negative when nobody knows before the end
	Origin  Origin
	Suspect bool // a beginning of it that was handed out lately was wrong: answer with the whole

	cache *Cache
	want  Want
	body  body
}

// body is one way to read a blob.
type body interface {
	// send writes n bytes from off to w and tells how many it wrote. n is
	// negative for all up to an end that is not known.
	send(ctx context.Context, w Sink, off, n int64) (int64, error)
	close()
}

// errUnreadable says that the file under a reader fails, and the source may
// give the rest.
var errUnreadable = errors.New("the file cannot be read")

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

// Has tells, without looking at its file, whether the blob is held or on its
// way, and shown to who asks. It is no use of the blob.
func (c *Cache) Has(want Want) bool {
	c.mu.Lock()
	_, filling := c.fills[want.Digest]
	c.mu.Unlock()
	return filling || c.Ledger.Holds(want.Digest) &&
		want.shows(c.classes.of(want.Digest), func() bool { return c.CameFrom(want.Digest, want.Host) })
}

// held opens a whole file. The error is errNotHeld, ErrClosed, or that of a
// system which cannot open files that may well be good.
func (c *Cache) held(want Want) (*Blob, error) {
	d := want.Digest
	size, known := c.Ledger.Touch(d)
	if !known && c.walking() {
		c.discover(d)
		size, known = c.Ledger.Touch(d)
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
		trusted := c.trust.has(d, stat.Signature, c.Now(), c.VerifyInterval)
		return &Blob{
			Size: size, Origin: Held, Suspect: c.suspects.has(d), cache: c, want: want,
			body: &held{cache: c, digest: d, size: size, trusted: trusted, handle: one, file: f},
		}, nil
	}
	c.handles.release(d, one)
	if err == nil {
		_ = f.Close()
	}
	if outOfHandles(err) {
		return nil, err
	}
	c.lost(d, size, stat.Size, err)
	return nil, errNotHeld
}

// Looked counts a request for an object of size bytes, and whether it was held.
func (c *Cache) Looked(size int64, held bool) {
	c.Metrics.Space.Looked(c.Ledger.Segment(size), held)
}

// outOfHandles tells an error of a system that can open no more files from
// one of the file.
func outOfHandles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// lost gives up a file that is not what the ledger thinks it is, unless it is
// only being evicted at this moment.
func (c *Cache) lost(d digest.Digest, size, onDisk int64, err error) {
	if c.Ledger.Doom(d) {
		verdict := metrics.CheckUnreadable
		if errors.Is(err, ErrWrongContent) {
			verdict = metrics.CheckWrong
		}
		c.Metrics.Checks.Ended(verdict)
		c.Log.Warn("a cached file is damaged and will be fetched again", "digest", d, "bytes", onDisk, "want_bytes", size, "err", err)
		c.Remove(d)
	}
}

// Open opens the blob, beginning a fill or joining one where it is not held.
// It returns when the size is known. ctx bounds the waiting, not the fill. The
// error is ErrClosed, or the source's.
func (c *Cache) Open(ctx context.Context, want Want) (*Blob, error) {
	for tries := 0; ; tries++ {
		b, err := c.held(want)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, ErrClosed) {
			return nil, err
		}
		if !errors.Is(err, errNotHeld) {
			return c.past(want, err), nil
		}
		var f *fill
		var began bool
		if f, began, err = c.join(want); err == nil {
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
		return c.past(want, cause), nil
	}
	stream, err := want.Source.Open(ctx, 0, -1)
	if err != nil {
		return nil, err
	}
	size := want.Size
	if size < 0 {
		size = stream.Size
	}
	return c.passing(want, size, stream, metrics.BypassDisk), nil
}

// past is a blob whose good file cannot be opened now: the source has it too.
func (c *Cache) past(want Want, err error) *Blob {
	c.Log.Warn("a cached file cannot be opened and is streamed through", "digest", want.Digest, "err", err)
	size, held := c.Ledger.Touch(want.Digest)
	if !held {
		size = want.Size
	}
	return c.passing(want, size, nil, metrics.BypassDisk)
}

// maxTries is how often a blob is looked for again that came or went in the
// moment it was looked for.
const maxTries = 100

// join returns the fill of a digest, beginning it where there is none. The
// error is errAgain when the file is there after all: a fill commits before
// it is taken off the list.
func (c *Cache) join(want Want) (f *fill, began bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fills[want.Digest]; f != nil {
		if !f.want.in(want.Repository) && !want.shows(f.classNow(), func() bool { return f.want.Host == want.Host }) {
			return nil, false, ErrClosed
		}
		if f.enter() {
			c.Metrics.Fills.Joined()
			return f, false, nil
		}
	}
	if c.closed {
		return nil, false, errStopped
	}
	if c.Ledger.Holds(want.Digest) {
		return nil, false, errAgain
	}
	f = newFill(c, want)
	f.enter()
	c.start(f)
	return f, true, nil
}

// start puts a fill on the list and sets it to work. c.mu is held.
func (c *Cache) start(f *fill) {
	c.fills[f.want.Digest] = f
	c.Metrics.Fills.Started()
	c.running.Go(f.run)
}

// Fetch brings in a blob that nobody has asked for yet: with one connection,
// and under a cap after what was asked for. It returns when the blob is held;
// whether it was Fetch that brought it is not so when another had begun, or
// when somebody asked in the meantime: the fill is then his, and goes on. A
// blob that would not be kept is not fetched, which is no error.
func (c *Cache) Fetch(ctx context.Context, want Want) (brought bool, err error) {
	if want.Size > c.MaxBlob {
		return false, nil
	}
	if c.walking() {
		c.discover(want.Digest)
	}
	c.mu.Lock()
	if c.fills[want.Digest] != nil || c.closed || c.Ledger.Holds(want.Digest) {
		c.mu.Unlock()
		return false, nil
	}
	f := newFill(c, want)
	c.start(f)
	c.mu.Unlock()
	select {
	case <-f.asked:
		return false, nil
	case <-f.over:
		err := f.failed()
		return err == nil, err
	case <-ctx.Done():
		return false, context.Cause(ctx)
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

// Send writes n bytes of the blob from off to w, all up to the end when n is
// negative. It does not return without error unless every byte was sent; one
// that includes the blob's last byte is not sent before the digest is right.
func (b *Blob) Send(ctx context.Context, w Sink, off, n int64) error {
	if n < 0 && b.Size >= 0 {
		n = b.Size - off
	}
	for start := off; ; {
		sent, err := b.body.send(ctx, w, off, n)
		if err == nil || !errors.Is(err, errUnreadable) || b.want.Source == nil {
			return err
		}
		off += sent
		if n >= 0 {
			n -= sent
		}
		if err := b.instead(ctx, start, off, err); err != nil {
			return err
		}
	}
}

// instead finds another way to the bytes from off on, after the file has
// failed under a reader that began at start. What it was given already came
// from that file: it is verified together with what follows, or was
// verified before, or the answer ends here.
func (b *Blob) instead(ctx context.Context, start, off int64, err error) error {
	var next body
	if r, ok := b.body.(*reader); ok {
		if next, err = r.passOn(b.want, start, off, err); err != nil {
			return err
		}
	} else if next, err = b.replace(ctx, off, off > start, err); err != nil {
		return err
	}
	b.body.close()
	b.body = next
	return nil
}

// replace gives up a file that fails under its reader and finds the blob
// elsewhere, from off on.
func (b *Blob) replace(ctx context.Context, off int64, begun bool, cause error) (body, error) {
	if h, ok := b.body.(*held); ok && begun && !h.trusted {
		return h.passOn(b.want, off, cause)
	}
	b.cache.lost(b.want.Digest, b.Size, -1, cause)
	again, err := b.cache.Open(ctx, b.want)
	if err != nil {
		return nil, err
	}
	return again.body, nil
}

// Close gives the blob back.
func (b *Blob) Close() { b.body.close() }
