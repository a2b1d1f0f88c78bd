package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/failpoint"
	"hubcap/eviction"
	"hubcap/metrics"
)

// step is how many bytes are reserved at a time for a blob whose size nobody
// tells.
const step = 64 << 20

// buffer is what is read from a source, written and hashed at a time.
const buffer = 256 << 10

// wakeAfter is how long new bytes may wait for more before readers are woken,
// wakeBytes how many may: a thousand readers are not woken for each packet.
const (
	wakeAfter = 2 * time.Millisecond
	wakeBytes = buffer
)

var buffers = sync.Pool{New: func() any { return new([buffer]byte) }}

// errNotKept says that a fill became a stream past the cache.
var errNotKept = errors.New("the blob is not kept")

// diskError is a failure of the file under a fill. The bytes that are in it
// can still be read.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func isDisk(err error) bool { return errors.As(err, new(diskError)) }

// fill is one download with many readers. It goes through: the source is
// asked; announced (size known, file made, or a verdict that it is not kept);
// filling; verified; committed.
type fill struct {
	cache    *Cache
	want     Want // of the request that began it
	replaces bool // a held file that cannot be read

	ctx       context.Context // of the transfers; set before any begins
	cancel    context.CancelCauseFunc
	writers   sync.WaitGroup // and the hasher
	asked     chan struct{}  // closed when somebody has asked for the blob; until then it comes behind others
	announced chan struct{}  // closed when open may answer
	judged    chan struct{}  // closed when the hasher has ended
	due       chan struct{}  // says that there is enough to save
	over      chan struct{}  // closed when the blob is held, or the fill has failed
	hash      hash.Hash      // the hasher's; anybody's to read once judged is closed

	mu       sync.Mutex
	class    blobs.Class
	size     int64 // of the blob; negative while nobody knows
	writer   *blobs.Writer
	reserved int64         // bytes promised by the ledger
	have     spans         // bytes in the file
	resumed  bool          // some of them are of an earlier fill
	unsaved  int64         // bytes since the last save
	plan     *plan         // what is yet to bring; nil where there is one writer
	wanted   map[int64]int // the offsets that readers wait at, and how many do
	rushing  int           // urgent writers at work
	hashed   int64         // bytes from 0 that the hasher has seen
	verified bool          // every byte may be read
	err      error         // why it ended; nil while it runs and when it went well
	ended    bool
	waiting  int     // openers that have not been answered
	spare    *Stream // the open source of a fill that is not kept, for one of them

	changed chan struct{} // closed and replaced when readers should look again
	pending int64         // bytes since readers were last woken
	woken   time.Time
	alarm   *time.Timer // wakes readers for pending bytes
}

func newFill(c *Cache, want Want) *fill {
	f := &fill{
		cache: c, want: want, size: -1, woken: time.Now(),
		asked:     make(chan struct{}),
		announced: make(chan struct{}),
		judged:    make(chan struct{}),
		due:       make(chan struct{}, 1),
		over:      make(chan struct{}),
		changed:   make(chan struct{}),
		wanted:    make(map[int64]int),
		hash:      want.Digest.Algorithm().Hash(),
	}
	if want.Closed {
		f.class = blobs.ClassClosed
	}
	f.alarm = time.AfterFunc(time.Hour, f.wake)
	f.alarm.Stop()
	return f
}

// run is the fill's life.
func (f *fill) run() {
	unlock := f.cache.locks.lock(f.want.Digest)
	defer f.cache.Remove(f.want.Digest) // what was doomed while the lock was held
	defer unlock()
	defer close(f.over)
	defer f.cache.unlist(f)
	defer f.guard(f.crashed)

	if f.cache.o.Ledger.Holds(f.want.Digest) && !f.replaces { // a manifest came by another way
		f.fail(errAgain)
		return
	}
	f.ctx, f.cancel = context.WithCancelCause(f.cache.base)
	over, err := f.cache.turn(f.ctx, f.want.Host)
	if err != nil {
		f.cancel(err)
		f.fail(err)
		return
	}
	defer over()
	if f.resume(); f.whole() {
		defer f.cancel(nil)
		f.announce()
		f.download(nil, nil)
		return
	}
	stream, release, err := f.ask()
	if err != nil {
		f.cancel(err)
		f.fail(err)
		return
	}
	if err := f.prepare(stream); err != nil {
		release()
		stream.Body = closer{stream.Body, func() { f.cancel(nil) }}
		f.passOn(stream, err)
		return
	}
	defer f.cancel(nil)
	f.announce()
	f.download(stream, release)
}

// ask is begin, once there is a connection to be had.
func (f *fill) ask() (stream *Stream, release func(), err error) {
	release, err = f.cache.slots.acquire(f.ctx, f.want.Host)
	if err != nil {
		return nil, nil, err
	}
	if stream, err = f.begin(f.ctx); err != nil {
		release()
	}
	return stream, release, err
}

// download fills the file, has it hashed, and commits it. stream is nil when
// everything is there already.
func (f *fill) download(stream *Stream, release func()) {
	f.writers.Go(func() {
		defer close(f.judged)
		defer f.guard(f.abort)
		if err := f.hashAll(); err != nil {
			f.abort(err)
		}
	})
	f.write(stream, release)
	f.writers.Wait()
	f.alarm.Stop()
	switch {
	case f.failed() == nil:
		f.commit()
	case f.lasting():
		f.park()
	default:
		f.discard()
	}
}

// passOn ends a fill that is not kept: each reader gets a stream of its own,
// the first of them the one that is open already.
func (f *fill) passOn(stream *Stream, err error) {
	f.cache.unlist(f)
	f.mu.Lock()
	f.size = stream.Size
	f.err = fmt.Errorf("%w: %w", errNotKept, err)
	f.ended = true
	if f.waiting > 0 {
		f.spare = stream
	}
	wanted := f.spare != nil
	close(f.announced)
	f.mu.Unlock()
	if !wanted {
		stream.Body.Close()
	}
	if isDisk(err) {
		f.cache.writeFailed(err)
	}
	if why := bypassOf(err); why != metrics.BypassTooLarge {
		f.cache.o.Log.Warn("a blob is streamed through and not kept", "digest", f.want.Digest, "bytes", stream.Size, "reason", why.String(), "err", err)
	}
}

func bypassOf(err error) metrics.Bypass {
	switch {
	case errors.Is(err, eviction.ErrTooLarge):
		return metrics.BypassTooLarge
	case isDisk(err) && !blobs.NoSpace(err):
		return metrics.BypassDisk
	default:
		return metrics.BypassNoSpace
	}
}

// wrote notes bytes in the file and wakes the readers, now or soon.
func (f *fill) wrote(s span) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have.add(s)
	f.unsaved += s.end - s.off
	if f.unsaved >= saveBytes {
		select {
		case f.due <- struct{}{}:
		default:
		}
	}
	f.pending += s.end - s.off
	if f.pending >= wakeBytes || time.Since(f.woken) >= wakeAfter {
		f.broadcast()
		return
	}
	f.alarm.Reset(wakeAfter)
}

// complete notes that a task has come to its end. Where the size was not
// known, that is it.
func (f *fill) complete(t *task, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.end < 0 {
		f.size = end
		f.broadcast()
	}
}

// wake is the alarm's call.
func (f *fill) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broadcast()
}

// broadcast wakes whoever waits for a change. f.mu is held.
func (f *fill) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
	f.pending = 0
	f.woken = time.Now()
}

// announce lets openers go on.
func (f *fill) announce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.announced)
}

// stop ends the fill with err, the first one that is given.
func (f *fill) stop(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	f.ended = true
	f.broadcast()
}

func (f *fill) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// fail ends a fill before it was announced. What an earlier one left stays.
func (f *fill) fail(err error) {
	f.cache.unlist(f)
	if f.resumed {
		f.writer.Leave()
		f.cache.o.Ledger.Park(f.want.Digest, f.reserved)
	}
	f.stop(err)
	f.announce()
	if errors.Is(err, errAgain) {
		return
	}
	f.count(err)
}

// discard gives up what was downloaded.
func (f *fill) discard() {
	err := f.failed()
	if errors.Is(err, ErrWrongContent) {
		f.cache.suspects.add(f.want.Digest)
	}
	f.giveUp(err)
}

// giveUp lets go of a file that will be no blob. Readers that have it open
// keep it, and its bytes count until they have left.
func (f *fill) giveUp(err error) {
	f.cache.unlist(f)
	f.writer.Discard()
	reserved := f.reserved
	let := f.cache.handles.unlinked
	if f.replaces {
		let = f.cache.handles.replaced // the file that is held keeps its name
	}
	let(f.want.Digest, func() { f.cache.o.Ledger.Release(reserved) })
	f.count(err)
}

// commit makes the download a blob. The readers need not wait for it: the
// bytes are verified, and a failure loses the copy only.
func (f *fill) commit() {
	class := f.classNow()
	stat, err := f.writer.Commit(f.size, class)
	if err != nil {
		err = diskError{err}
		f.cache.unlist(f) // before the error, which no new reader may find
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
		f.giveUp(err)
		return
	}
	f.cache.superseded(f.want.Digest)
	f.cache.trust.verified(f.want.Digest, stat, f.cache.o.Now())
	f.cache.classed(f.want.Digest, class, f.want.Host)
	f.cache.o.Ledger.Commit(f.want.Digest, f.reserved, f.size)
	failpoint.At(failpoint.CommitCounted)
	if f.classNow() != class {
		f.cache.revealLocked(f.want.Digest)
	}
	f.cache.usage.touch(f.want.Digest)
	f.cache.o.Metrics.Fills.Finished()
}

// count logs and counts a fill that left nothing behind.
func (f *fill) count(err error) {
	why := failureOf(err)
	f.cache.o.Metrics.Fills.Failed(why)
	if why == metrics.FillDisk {
		f.cache.writeFailed(err)
	}
	if why != metrics.FillStopped {
		f.cache.o.Log.Warn("a fill failed", "digest", f.want.Digest, "reason", why.String(), "err", err)
	}
}

func failureOf(err error) metrics.FillFailure {
	var bug panicError
	switch {
	case errors.Is(err, ErrWrongContent):
		return metrics.FillDigest
	case errors.Is(err, errStopped):
		return metrics.FillStopped
	case isDisk(err):
		return metrics.FillDisk
	case errors.As(err, &bug):
		return metrics.FillPanic
	default:
		return metrics.FillUpstream
	}
}

// panicError is a bug that ended one fill.
type panicError struct{ value any }

func (e panicError) Error() string   { return fmt.Sprintf("panic: %v", e.value) }
func (e panicError) Temporary() bool { return false }

// guard turns a panic of the fill into its end, so that one bug costs one
// blob. It is deferred.
func (f *fill) guard(end func(error)) {
	p := recover()
	if p == nil {
		return
	}
	f.cache.panicked("a fill", f.want.Digest, p)
	end(panicError{p})
}

// panicked reports a bug that cost one piece of work.
func (c *Cache) panicked(what string, d digest.Digest, p any) {
	c.o.Metrics.Requests.Panicked()
	c.o.Log.Error(what+" panicked", "digest", d, "panic", p, "stack", string(debug.Stack()))
}

// crashed cleans up after a panic of run itself.
func (f *fill) crashed(err error) {
	if errors.Is(f.failed(), errNotKept) {
		return // its readers have what they need
	}
	if f.writer == nil {
		f.fail(err)
		return
	}
	f.stop(err)
	f.discard()
	if !isClosed(f.announced) {
		f.announce()
	}
}

// closer is a stream's body that ends the stream's context when it is closed.
type closer struct {
	io.ReadCloser
	end func()
}

func (c closer) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
