package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"hubcap/cache/blobs"
	"hubcap/eviction"
)

// maxUrgent is how many writers a fill may have beside its own for readers
// that jump about in the blob.
const maxUrgent = 2

// slots bounds something of all fills together and of those from one host. Who
// waits is served in order. The slot of a connection is held for one piece, so
// that a large blob does not starve the others.
type slots struct {
	all     *semaphore.Weighted
	perHost int64

	mu    sync.Mutex
	hosts map[string]*semaphore.Weighted // as many as registries are configured
}

func newSlots(all, perHost int) *slots {
	return &slots{all: semaphore.NewWeighted(int64(all)), perHost: int64(perHost), hosts: make(map[string]*semaphore.Weighted)}
}

// acquire waits for a slot and returns what gives it back.
func (s *slots) acquire(ctx context.Context, host string) (release func(), err error) {
	s.mu.Lock()
	one := s.hosts[host]
	if one == nil {
		one = semaphore.NewWeighted(s.perHost)
		s.hosts[host] = one
	}
	s.mu.Unlock()
	if err := one.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.all.Acquire(ctx, 1); err != nil {
		one.Release(1)
		return nil, context.Cause(ctx)
	}
	return func() { s.all.Release(1); one.Release(1) }, nil
}

// turnsOfHost is how many of the fills that may go on at a time may be from one
// host: one that hangs leaves something to the others.
func turnsOfHost(all int) int { return max(all*3/4, 1) }

// turn waits until there are few enough fills for one more to begin: each has
// files open and bytes reserved, whether it gets a connection or not.
func (c *Cache) turn(ctx context.Context, host string) (over func(), err error) {
	c.fillsWaiting.Add(1)
	defer c.fillsWaiting.Add(-1)
	return c.turns.acquire(ctx, host)
}

// first is what the source is asked for first: the piece that the first
// reader waits for, if the blob may be worth several connections or some of it
// is there, else the whole.
func (f *fill) first() (off, n int64) {
	if f.resumed {
		gap := f.have.missing(f.size).from(f.want.Off)
		return gap.off, min(gap.end-gap.off, pieceOf(f.size, f.cache.o.Connections))
	}
	if f.cache.o.Connections > 1 && (f.want.Size < 0 || f.want.Size > maxPiece) {
		return f.want.Off, pieceOf(f.want.Size, f.cache.o.Connections)
	}
	return 0, -1
}

// begin asks the source. How long the blob is, the source alone says: a
// manifest that gives another length, or none, does not make right bytes wrong.
func (f *fill) begin(ctx context.Context) (*Stream, error) {
	off, n := f.first()
	stream, err := f.want.Source.Open(ctx, off, n)
	if err != nil && off > 0 && unsatisfiable(err) { // the blob ends before
		stream, err = f.want.Source.Open(ctx, 0, n)
	}
	if err != nil {
		return nil, err
	}
	if stream.Size < 0 && (stream.Off > 0 || stream.End > stream.Off) { // a piece of nobody knows what
		stream.Body.Close()
		if stream, err = f.want.Source.Open(ctx, 0, -1); err != nil {
			return nil, err
		}
	}
	f.cache.compareSizes(f.want, stream)
	return stream, nil
}

// compareSizes warns of a manifest that gives another length than the source.
// The digest decides which bytes are right.
func (c *Cache) compareSizes(want Want, stream *Stream) {
	if want.Size >= 0 && stream.Size >= 0 && stream.Size != want.Size {
		c.o.Log.Warn("the manifest gives another length for a blob than its source; the digest decides",
			"digest", want.Digest, "manifest_bytes", want.Size, "source_bytes", stream.Size)
	}
}

// write sets the writers to work: one goes on with the open stream. A source
// that answered with less than the whole knows ranges and gets as many as
// there are pieces, up to the number that is configured; any other one has
// one writer, and no plan.
func (f *fill) write(stream *Stream, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.savable() {
		f.writers.Go(f.save)
	}
	if stream == nil {
		return
	}
	first := &task{off: stream.Off, end: f.size}
	if !stream.part(f.size) {
		f.writers.Go(func() { f.work(first, stream, release) })
		return
	}
	missing := f.have.missing(f.size)
	first.end = min(max(stream.End, stream.Off), missing.endFrom(stream.Off))
	f.plan = newPlan(missing, pieceOf(f.size, f.cache.o.Connections), f.cache.o.Patience, first)
	f.writers.Go(f.watch)
	f.writers.Go(func() { f.work(first, stream, release) })
	if isClosed(f.asked) {
		f.widen()
	}
}

// widen sets the other writers to work, where there is something for them. A
// blob that nobody has asked for has one. f.mu is held.
func (f *fill) widen() {
	if f.plan == nil || f.ended {
		return
	}
	for range f.cache.o.Connections - 1 {
		t := f.plan.next(f.wanted)
		if t == nil {
			return
		}
		// The hasher runs as long as a byte is missing, so the group is not empty.
		f.writers.Go(func() { f.work(t, nil, nil) })
	}
}

// urge has the bytes at off brought at once if no writer will be there in a
// moment. f.mu is held.
func (f *fill) urge(off int64) {
	if f.plan == nil || f.ended || f.rushing >= maxUrgent || f.cache.o.Connections < 2 || f.size <= maxPiece {
		return
	}
	t, cut := f.plan.urgent(off, time.Now())
	if t == nil {
		return
	}
	if cut {
		f.cache.o.Metrics.Fills.TakenOver(1)
	}
	f.rushing++
	// The hasher runs as long as a byte is missing, so the group is not empty.
	f.writers.Go(func() {
		f.work(t, nil, nil)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.rushing--
	})
}

// work is a writer's life: task by task, until there is none left. The first
// one's answer is open already, and release gives back its slot.
func (f *fill) work(t *task, stream *Stream, release func()) {
	defer f.guard(f.abort)
	for ; t != nil; t, stream, release = f.nextTask(t), nil, nil {
		if err := f.bring(t, stream, release); err != nil {
			f.abort(err)
			return
		}
	}
}

func (f *fill) nextTask(done *task) *task {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan == nil || f.ended {
		return nil
	}
	f.plan.done(done)
	return f.plan.next(f.wanted)
}

// abort ends the fill because of one writer or the hasher.
func (f *fill) abort(err error) {
	f.cancel(err)
	f.stop(err)
}

// watch has what a stalled writer did not get brought by the next one, as
// long as the fill runs.
func (f *fill) watch() {
	tick := time.NewTicker(f.cache.o.Patience / 4)
	defer tick.Stop()
	for {
		select {
		case <-f.judged:
			return
		case now := <-tick.C:
			f.mu.Lock()
			f.cache.o.Metrics.Fills.TakenOver(f.plan.stalled(now))
			f.mu.Unlock()
		}
	}
}

// bring writes the span of a task into the file, through as many broken
// connections as it takes.
func (f *fill) bring(t *task, stream *Stream, release func()) (err error) {
	if release == nil {
		if release, err = f.cache.slots.acquire(f.ctx, f.want.Host); err != nil {
			return err
		}
	}
	defer release()
	ctx, drop := context.WithCancelCause(f.ctx)
	defer drop(nil)
	if stream != nil { // it was opened before there was a task
		defer context.AfterFunc(ctx, func() { stream.Body.Close() })()
	}
	from := &resumer{
		ctx: ctx, source: f.want.Source, stream: stream, off: t.off, size: f.known(),
		resumed: f.cache.o.Metrics.Fills.Resumed,
	}
	defer from.Close()
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	for {
		from.end = f.asking(t, drop)
		off := from.off
		n, err := from.Read(buf[:])
		if err == io.EOF || errors.Is(context.Cause(ctx), errTakenOver) { //nolint:errorlint // the end itself; what wraps it is a failure
			f.complete(t, off)
			return nil
		}
		if err != nil {
			return err
		}
		if n = f.claim(t, off, n); n == 0 {
			continue
		}
		if err := f.cache.pacer.wait(f.ctx, n, f.asked); err != nil {
			return err
		}
		if err := f.grow(off + int64(n)); err != nil {
			return diskError{err}
		}
		if _, err := f.writer.WriteAt(buf[:n], off); err != nil {
			return diskError{err}
		}
		f.wrote(span{off, off + int64(n)})
	}
}

// asking notes that a writer waits for its source from now on, and tells up
// to where it is to read. drop ends the waiting.
func (f *fill) asking(t *task, drop context.CancelCauseFunc) (end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.asked, t.drop = time.Now(), drop
	return t.end
}

// claim makes n bytes at off, which have come, this writer's to write, or as
// many of them as still are its own.
func (f *fill) claim(t *task, off int64, n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.plan != nil {
		f.plan.heard = now
	}
	return t.claim(off, n, now)
}

// prepare reserves room and makes the file, where there is none to go on with:
// its source must know ranges, and give the blob that it gave before.
func (f *fill) prepare(stream *Stream) error {
	size := stream.Size
	if f.resumed {
		if size == f.size && stream.part(size) && f.have.endFrom(stream.Off) == stream.Off {
			return nil
		}
		f.restart()
	}
	if err := f.cache.writable(); err != nil {
		return err
	}
	if err := f.cache.removeLocked(f.want.Digest); err != nil {
		return diskError{err}
	}
	if size > f.cache.o.MaxBlob {
		return eviction.ErrTooLarge
	}
	room := size
	var err error
	if size < 0 {
		room, err = f.reserveSome(0)
	} else {
		err = f.cache.janitor.Reserve(room)
	}
	if err != nil {
		return err
	}
	w, err := f.create(room)
	if err != nil {
		f.cache.o.Ledger.Release(room)
		return diskError{err}
	}
	if left, ok := f.cache.o.Ledger.Resume(f.want.Digest); ok { // the one before, which could not be read
		f.cache.handles.unlinked(f.want.Digest, func() { f.cache.o.Ledger.Release(left) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size, f.writer, f.reserved = size, w, room
	return nil
}

func (f *fill) create(room int64) (*blobs.Writer, error) {
	w, err := f.cache.o.Store.Create(f.want.Digest)
	if err != nil {
		return nil, err
	}
	if err := w.Allocate(room); err != nil {
		w.Discard()
		return nil, err
	}
	return w, nil
}

// grow reserves more for a blob whose size nobody told, which has one writer.
func (f *fill) grow(end int64) error {
	for end > f.reserved {
		room, err := f.reserveSome(f.reserved)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.reserved += room
		f.mu.Unlock()
		if err := f.writer.Allocate(f.reserved); err != nil {
			return err
		}
	}
	return nil
}

// reserveSome reserves a step beyond what is reserved, or less where a whole
// step does not fit.
func (f *fill) reserveSome(reserved int64) (room int64, err error) {
	left := f.cache.o.MaxBlob - reserved
	if left <= 0 {
		return 0, eviction.ErrTooLarge
	}
	for room = min(step, left); ; room = max(room/4, min(buffer, left)) {
		room = (room + 4095) / 4096 * 4096 // whole blocks add up without rounding
		if err = f.cache.janitor.Reserve(room); err == nil || room <= buffer {
			return room, err
		}
	}
}
