package fill

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	"hubcap/cache/blobs"
)

// step is how many bytes are reserved at a time for a blob of unknown size.
const step = 64 << 20

// BufferSize is how many bytes are read from a source, written and hashed at a
// time.
const BufferSize = 256 << 10

// wakeAfter is how long new bytes may wait for more before readers are woken,
// and wakeBytes how many may wait. It keeps a thousand readers from being woken
// for each packet.
const (
	wakeAfter = 5 * time.Millisecond
	wakeBytes = BufferSize
)

// Buffers are the buffers that bytes are read into, of BufferSize bytes.
var Buffers = sync.Pool{New: func() any { return new([BufferSize]byte) }}

// diskError is a failure of the file under a fill. The bytes that are in the
// file can still be read.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func isDisk(err error) bool { return errors.As(err, new(diskError)) }

// Fill is one download with its readers. Its goroutines are run, the hasher,
// the writers, save and watch; run waits for all others in parts. Its life is
// described at state.
type Fill struct {
	// Set by newFill, and never changed.
	fills     *Fills
	want      Want // of the request that began it
	source    *chooser
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
	place    string        // Opened.Place, once it is filling
	have     spans         // bytes in the file. Before filling only run writes it, and reads it without mu
	unsaved  int64         // bytes since the last save
	speed    ewma          // of the bytes that come
	plan     *plan         // what is yet to be fetched; nil if there is only one writer
	wanted   map[int64]int // the offsets that readers wait at, and how many wait there
	first    map[int64]int // of them, those of readers that have nothing yet
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

func newFill(s *Fills, want Want, replaces bool) *Fill {
	f := &Fill{
		fills: s, want: want, replaces: replaces, since: s.o.Now(), size: -1, woken: time.Now(),
		requested: make(chan struct{}),
		announced: make(chan struct{}),
		hashEnded: make(chan struct{}),
		saveDue:   make(chan struct{}, 1),
		done:      make(chan struct{}),
		changed:   make(chan struct{}),
		wanted:    make(map[int64]int),
		first:     make(map[int64]int),
		hash:      want.Digest.Algorithm().Hash(),
		source:    newChooser(s, want, true),
	}
	f.ctx, f.cancel = context.WithCancelCause(s.base)
	if want.Restricted {
		f.class = blobs.Restricted
	}
	f.waker = time.AfterFunc(time.Hour, f.wake)
	f.waker.Stop()
	return f
}

// run is the fill's life. It takes the digest's lock for all of it.
func (f *Fill) run() {
	unlock := f.fills.o.Digests.Lock(f.want.Digest)
	defer f.fills.o.Remover.Remove(f.want.Digest) // what was evicted while the lock was held
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
func (f *Fill) download() end {
	if f.fills.o.Ledger.Holds(f.want.Digest) && !f.replaces {
		return end{state: stateHeld, err: ErrAgain}
	}
	over, err := f.fills.turn(f.ctx, f.want.Host, f.source.fed())
	if err != nil {
		return end{state: stateFailed, err: err}
	}
	defer over()
	f.mu.Lock()
	f.move(stateAsking)
	f.mu.Unlock()
	if f.resume(); f.whole() {
		return f.transfer(nil)
	}
	stream, err := f.begin(f.ctx)
	if err != nil {
		return f.broken(err)
	}
	if err := f.prepare(stream); err != nil {
		stream.release()
		stream.Body = closer{stream.Body, func() { f.cancel(nil) }}
		return end{state: stateUncached, err: err, stream: stream}
	}
	return f.transfer(stream)
}

// transfer fills the file, has it hashed, and commits it. stream is nil if
// every byte is in the file already.
func (f *Fill) transfer(stream *Stream) end {
	f.mu.Lock()
	f.move(stateFilling)
	if stream != nil && stream.Place != nil {
		f.place = stream.Place.Kind
	}
	close(f.announced)
	f.mu.Unlock()
	f.parts.Go(func() {
		defer close(f.hashEnded)
		f.orAbort(f.hashAll)
	})
	f.startWriters(stream)
	f.parts.Wait()
	f.waker.Stop()
	if err := f.failed(); err != nil {
		return f.broken(err)
	}
	return f.commit()
}

// commit makes the file a blob. Readers do not wait for it: the bytes are
// verified, and a failure loses only the stored copy.
func (f *Fill) commit() end {
	class := f.classNow()
	stat, err := f.writer.Commit(f.size, class)
	if err != nil {
		return end{state: stateFailed, err: diskError{err}}
	}
	f.fills.o.Holder.Keep(Kept{f.want.Digest, stat, class, f.want.Host, f.reserved, f.source.fetched()})
	if f.classNow() != class {
		f.fills.o.Holder.Reveal(f.want.Digest)
	}
	return end{state: stateHeld}
}

// broken decides how a fill ends that err has ended, and saves what is to stay.
func (f *Fill) broken(err error) end {
	if errors.Is(err, ErrWrongContent) || errors.Is(err, errChanged) {
		f.source.wrong()
	}
	if !f.lasting(err) {
		return end{state: stateFailed, err: err}
	}
	if err := f.saveNow(); err != nil {
		f.fills.o.Log.Warn("a partial fill cannot be saved", "digest", f.want.Digest, "err", err)
		return end{state: stateFailed, err: err}
	}
	return end{state: stateParked, err: err}
}

// abort stops a fill whose writer or hasher failed with err; run then ends it.
// Only the first reason counts.
func (f *Fill) abort(err error) {
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
func (f *Fill) finish(e end) {
	f.fills.unlist(f)
	unused := f.settle(e)
	_ = f.guard(func() error { f.letGo(e, unused); return nil })
	f.count(e)
}

// settle moves to the last state and answers the openers. It returns the stream
// of an uncached fill if no opener waits for it.
func (f *Fill) settle(e end) (unused *Stream) {
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
func (f *Fill) letGo(e end, unused *Stream) {
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
		f.fills.o.Ledger.Park(f.want.Digest, f.reserved)
	case e.state == stateFailed && f.writer != nil:
		f.writer.Discard()
		free := f.fills.o.Files.Unlinked
		if f.replaces {
			free = f.fills.o.Files.Replaced // the stored file keeps its name
		}
		free(f.want.Digest, func() { f.fills.o.Ledger.Release(f.reserved) }) // once no reader has it open
	}
}

// count counts and logs the end.
func (f *Fill) count(e end) {
	s, why := f.fills, failureOf(e.err)
	switch {
	case e.state == stateUncached:
		if isDisk(e.err) {
			s.o.Disk.WriteFailed(e.err)
		}
		if why := reasonOf(e.err); why != ReasonTooLarge {
			s.o.Log.Warn("a blob is streamed and not stored", "digest", f.want.Digest, "bytes", f.known(), "reason", why.String(), "err", e.err)
		}
		return
	case e.err == nil:
		s.o.Metrics.Fills.Finished()
		return
	case e.state == stateHeld:
		return
	}
	s.o.Metrics.Fills.Failed(why.String())
	if why == failedDisk {
		s.o.Disk.WriteFailed(e.err)
	}
	if why != failedStopped {
		s.o.Log.Warn("a fill failed", "digest", f.want.Digest, "reason", why.String(), "err", e.err)
	}
}

// wrote notes bytes in the file and wakes the readers, now or soon.
func (f *Fill) wrote(s span) {
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
	if f.pending >= wakeBytes || now.Sub(f.woken) >= wakeAfter || f.awaited(s) || f.have.endFrom(0) == f.size {
		f.broadcast()
		return
	}
	f.waker.Reset(wakeAfter)
}

// awaited reports whether a span has the first byte of a reader. f.mu is held.
func (f *Fill) awaited(s span) bool {
	for off := range f.first {
		if s.off <= off && off < s.end {
			return true
		}
	}
	return false
}

// complete notes that a task has come to its end. If the size was unknown, that
// is the size.
func (f *Fill) complete(t *task, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.end < 0 {
		f.size = end
		f.broadcast()
	}
}

// wake is called by the waker.
func (f *Fill) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broadcast()
}

// broadcast wakes all that wait for a change. f.mu is held.
func (f *Fill) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
	f.pending = 0
	f.woken = time.Now()
}

func (f *Fill) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// panicError is a bug that ended one fill.
type panicError struct{ value any }

func (e panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// guard calls do and returns its error, or a panic in it as a panicError, so
// that one bug costs one blob.
func (f *Fill) guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			f.fills.panicked(f.want.Digest, p)
			err = panicError{p}
		}
	}()
	return do()
}

// orAbort calls do and aborts the fill if it fails or panics.
func (f *Fill) orAbort(do func() error) {
	if err := f.guard(do); err != nil {
		f.abort(err)
	}
}

// Requested is closed when a client has requested the blob.
func (f *Fill) Requested() <-chan struct{} { return f.requested }

// Done is closed when the fill has ended.
func (f *Fill) Done() <-chan struct{} { return f.done }

// ErrNotStored says that a blob was fetched, or could have been, and is not stored.
var ErrNotStored = errors.New("it cannot be stored")

// Outcome returns the size in bytes of the blob that an ended fill has stored, or
// why it has stored none: ErrAgain if the blob was stored meanwhile.
func (f *Fill) Outcome() (size int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == stateUncached {
		return 0, fmt.Errorf("%w: %w", ErrNotStored, f.err)
	}
	return f.size, f.err
}

// Want returns what the request that began the fill knew of the blob.
func (f *Fill) Want() Want { return f.want }

// Reveal makes what the fill fetches public.
func (f *Fill) Reveal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.class = blobs.Public
}

func (f *Fill) classNow() blobs.Class {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.class
}
