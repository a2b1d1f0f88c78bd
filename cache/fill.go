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
)

// step is how many bytes are reserved at a time for a blob of unknown size.
const step = 64 << 20

// buffer is how many bytes are read from a source, written and hashed at a
// time.
const buffer = 256 << 10

// wakeAfter is how long new bytes may wait for more before readers are woken,
// and wakeBytes how many may wait. It keeps a thousand readers from being woken
// for each packet.
const (
	wakeAfter = 2 * time.Millisecond
	wakeBytes = buffer
)

var buffers = sync.Pool{New: func() any { return new([buffer]byte) }}

// diskError is a failure of the file under a fill. The bytes that are in the
// file can still be read.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func isDisk(err error) bool { return errors.As(err, new(diskError)) }

// fill is one download with its readers. Its goroutines are run, the hasher,
// the writers, save and watch; run waits for all others in parts. Its life is
// described at state.
type fill struct {
	// Set by newFill, and never changed.
	cache     *Cache
	want      Want // of the request that began it
	replaces  bool // the blob is stored, in a file that cannot be read
	since     time.Time
	ctx       context.Context // of all transfers; ends with the fill, or with the spare stream
	cancel    context.CancelCauseFunc
	announced chan struct{} // closed by run when openers can be answered
	hashEnded chan struct{} // closed by the hasher when it ends
	done      chan struct{} // closed by run after the end
	requested chan struct{} // closed under mu when a client requests the blob; until then it has a low priority
	saveDue   chan struct{} // has a value when there is enough to save

	parts   sync.WaitGroup // of the goroutines other than run. Others than run add to it only while the hasher runs
	hash    hash.Hash      // the hasher's; anyone may read it once hashEnded is closed
	resumed bool           // run's: the file is a partial file of an earlier fill

	// Written only by run before the state is filling, and then under mu. So
	// run reads them without mu, and so do the goroutines that it starts.
	writer *blobs.Writer

	// As writer, but a fill of unknown size has its only writer reserve more,
	// under mu. Run reads it again after that writer has ended.
	reserved int64 // bytes reserved in the ledger

	mu       sync.Mutex // guards all that follows
	state    state
	err      error // the first reason to end; nil while it runs, and if it ended well
	class    blobs.Class
	size     int64         // of the blob in bytes, negative while unknown. Before filling only run writes it, and reads it without mu
	have     spans         // bytes in the file. Before filling only run writes it, and reads it without mu
	unsaved  int64         // bytes since the last save
	speed    ewma          // of the bytes that come
	plan     *plan         // what is yet to be fetched; nil if there is only one writer
	wanted   map[int64]int // the offsets that readers wait at, and how many wait there
	working  int           // running writers
	urgent   int           // of them, those that were started for one reader
	hashed   int64         // bytes from 0 that the hasher has seen
	verified bool          // the digest is right: every byte may be read. Stays true if the commit fails
	waiting  int           // openers that have not been answered
	readers  int           // open readers of the file
	spare    *Stream       // the open stream of an uncached fill, for the first opener that takes it

	changed chan struct{} // closed and replaced when readers and the hasher should look again
	pending int64         // bytes since readers were last woken
	woken   time.Time     // when they were
	waker   *time.Timer   // wakes readers for pending bytes
}

func newFill(c *Cache, want Want, replaces bool) *fill {
	f := &fill{
		cache: c, want: want, replaces: replaces, since: c.o.Now(), size: -1, woken: time.Now(),
		requested: make(chan struct{}),
		announced: make(chan struct{}),
		hashEnded: make(chan struct{}),
		saveDue:   make(chan struct{}, 1),
		done:      make(chan struct{}),
		changed:   make(chan struct{}),
		wanted:    make(map[int64]int),
		hash:      want.Digest.Algorithm().Hash(),
	}
	f.ctx, f.cancel = context.WithCancelCause(c.base)
	if want.Restricted {
		f.class = blobs.Restricted
	}
	f.waker = time.AfterFunc(time.Hour, f.wake)
	f.waker.Stop()
	return f
}

// run is the fill's life. It takes the digest's lock for all of it.
func (f *fill) run() {
	unlock := f.cache.locks.lock(f.want.Digest)
	defer f.cache.Remove(f.want.Digest) // what was evicted while the lock was held
	defer unlock()
	defer close(f.done)
	var e end
	if bug := f.guard(func() error { e = f.download(); return nil }); bug != nil {
		f.abort(bug)
		f.parts.Wait()
		e = end{state: stateFailed, err: bug}
	}
	f.finish(e)
}

// download takes the fill from waiting to where it can only end.
func (f *fill) download() end {
	if f.cache.o.Ledger.Holds(f.want.Digest) && !f.replaces {
		return end{state: stateHeld, err: errAgain}
	}
	over, err := f.cache.turn(f.ctx, f.want.Host)
	if err != nil {
		return end{state: stateFailed, err: err}
	}
	defer over()
	f.mu.Lock()
	f.move(stateAsking)
	f.mu.Unlock()
	if f.resume(); f.whole() {
		return f.transfer(nil, nil)
	}
	stream, release, err := f.ask()
	if err != nil {
		return f.broken(err)
	}
	if err := f.prepare(stream); err != nil {
		release()
		stream.Body = closer{stream.Body, func() { f.cancel(nil) }}
		return end{state: stateUncached, err: err, stream: stream}
	}
	return f.transfer(stream, release)
}

// ask takes a connection and asks the source for the first piece.
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

// transfer fills the file, has it hashed, and commits it. stream is nil if
// every byte is in the file already.
func (f *fill) transfer(stream *Stream, release func()) end {
	f.mu.Lock()
	f.move(stateFilling)
	close(f.announced)
	f.mu.Unlock()
	f.parts.Go(func() {
		defer close(f.hashEnded)
		f.orAbort(f.hashAll)
	})
	f.startWriters(stream, release)
	f.parts.Wait()
	f.waker.Stop()
	if err := f.failed(); err != nil {
		return f.broken(err)
	}
	return f.commit()
}

// commit makes the file a blob. Readers do not wait for it: the bytes are
// verified, and a failure loses only the stored copy.
func (f *fill) commit() end {
	class := f.classNow()
	stat, err := f.writer.Commit(f.size, class)
	if err != nil {
		return end{state: stateFailed, err: diskError{err}}
	}
	f.cache.committed(f.want.Digest, stat, class, f.want.Host, f.reserved)
	if f.classNow() != class {
		f.cache.revealLocked(f.want.Digest)
	}
	return end{state: stateHeld}
}

// broken decides how a fill ends that err has ended, and saves what is to stay.
func (f *fill) broken(err error) end {
	if !f.lasting(err) {
		return end{state: stateFailed, err: err}
	}
	if err := f.saveNow(); err != nil {
		f.cache.o.Log.Warn("a partial fill cannot be saved", "digest", f.want.Digest, "err", err)
		return end{state: stateFailed, err: err}
	}
	return end{state: stateParked, err: err}
}

// abort stops a fill whose writer or hasher failed with err; run then ends it.
// Only the first reason counts.
func (f *fill) abort(err error) {
	f.cancel(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == stateFilling || f.state == stateCommitting {
		f.err = err
		f.move(stateStopping)
		f.broadcast()
	}
}

// finish ends the fill: the only way to do so. A committed blob is in the
// ledger before the fill leaves the list, so that no reader misses both.
func (f *fill) finish(e end) {
	f.cache.unlist(f)
	unused := f.settle(e)
	_ = f.guard(func() error { f.letGo(e, unused); return nil })
	f.count(e)
}

// settle moves to the last state and answers the openers. It returns the stream
// of an uncached fill if no opener waits for it.
func (f *fill) settle(e end) (unused *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.move(e.state)
	if f.err == nil {
		f.err = e.err
	}
	if e.stream != nil {
		f.size = e.stream.Size
		if f.waiting > 0 {
			f.spare = e.stream
		} else {
			unused = e.stream
		}
	}
	if !isClosed(f.announced) {
		close(f.announced)
	}
	f.broadcast()
	return unused
}

// letGo disposes of the file and of the transfers.
func (f *fill) letGo(e end, unused *Stream) {
	if e.state == stateUncached { // there is no file, and its stream ends ctx
		if unused != nil {
			unused.Body.Close()
		}
		return
	}
	f.cancel(e.err)
	switch {
	case e.state == stateParked:
		f.writer.Leave()
		f.cache.o.Ledger.Park(f.want.Digest, f.reserved)
	case e.state == stateFailed && f.writer != nil:
		f.writer.Discard()
		free := f.cache.handles.unlinked
		if f.replaces {
			free = f.cache.handles.replaced // the stored file keeps its name
		}
		free(f.want.Digest, func() { f.cache.o.Ledger.Release(f.reserved) }) // once no reader has it open
	}
}

// count counts and logs the end.
func (f *fill) count(e end) {
	c, why := f.cache, failureOf(e.err)
	switch {
	case e.state == stateUncached:
		if isDisk(e.err) {
			c.writeFailed(e.err)
		}
		if why := uncachedReasonOf(e.err); why != uncachedTooLarge {
			c.o.Log.Warn("a blob is streamed and not stored", "digest", f.want.Digest, "bytes", f.known(), "reason", why.String(), "err", e.err)
		}
		return
	case e.err == nil:
		c.o.Metrics.Fills.Finished()
		return
	case e.state == stateHeld:
		return
	}
	c.o.Metrics.Fills.Failed(why.String())
	if why == failedDisk {
		c.writeFailed(e.err)
	}
	if why != failedStopped {
		c.o.Log.Warn("a fill failed", "digest", f.want.Digest, "reason", why.String(), "err", e.err)
	}
}

// wrote notes bytes in the file and wakes the readers, now or soon.
func (f *fill) wrote(s span) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.have.add(s)
	f.speed.add(s.end-s.off, now)
	f.unsaved += s.end - s.off
	if f.unsaved >= saveBytes {
		select {
		case f.saveDue <- struct{}{}:
		default:
		}
	}
	f.pending += s.end - s.off
	if f.pending >= wakeBytes || now.Sub(f.woken) >= wakeAfter {
		f.broadcast()
		return
	}
	f.waker.Reset(wakeAfter)
}

// complete notes that a task has come to its end. If the size was unknown, that
// is the size.
func (f *fill) complete(t *task, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.end < 0 {
		f.size = end
		f.broadcast()
	}
}

// wake is called by the waker.
func (f *fill) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broadcast()
}

// broadcast wakes all that wait for a change. f.mu is held.
func (f *fill) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
	f.pending = 0
	f.woken = time.Now()
}

func (f *fill) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// panicError is a bug that ended one fill.
type panicError struct{ value any }

func (e panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// guard calls do and returns its error, or a panic in it as a panicError, so
// that one bug costs one blob.
func (f *fill) guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			f.cache.panicked("a fill", f.want.Digest, p)
			err = panicError{p}
		}
	}()
	return do()
}

// orAbort calls do and aborts the fill if it fails or panics.
func (f *fill) orAbort(do func() error) {
	if err := f.guard(do); err != nil {
		f.abort(err)
	}
}

// panicked reports a bug that cost one piece of work.
func (c *Cache) panicked(what string, d digest.Digest, p any) {
	c.o.Metrics.Requests.Panicked()
	c.o.Log.Error(what+" panicked", "digest", d, "panic", p, "stack", string(debug.Stack()))
}

// closer is a stream's body whose closing also ends the stream's context.
type closer struct {
	io.ReadCloser
	end func()
}

func (c closer) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
