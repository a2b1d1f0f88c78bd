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

// maxUrgent is how many writers a fill may have, in addition to
// Options.Connections, for readers that are far from every writer.
const maxUrgent = 2

// slots limits a number for all fills together and for those of one host.
// Waiting callers are served in order. The slot of a connection is held for one
// piece, so that a large blob does not starve the others.
type slots struct {
	all     *semaphore.Weighted
	perHost int64

	mu    sync.Mutex
	hosts map[string]*semaphore.Weighted // as many as registries are configured
}

func newSlots(all, perHost int) *slots {
	return &slots{all: semaphore.NewWeighted(int64(all)), perHost: int64(perHost), hosts: make(map[string]*semaphore.Weighted)}
}

// acquire waits for a slot and returns the function that gives it back. The
// error is ctx's cause.
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

// turnsOfHost returns how many of all concurrent fills may be from one host, so
// that a host that hangs does not block the others.
func turnsOfHost(all int) int { return max(all*3/4, 1) }

// turn waits until one more fill may begin. The number is limited because each
// has files open and bytes reserved, with or without a connection.
func (c *Cache) turn(ctx context.Context, host string) (over func(), err error) {
	c.fillsWaiting.Add(1)
	defer c.fillsWaiting.Add(-1)
	return c.turns.acquire(ctx, host)
}

// first returns what to ask the source for first: the piece that the first
// reader waits for if the blob may be worth several connections or some of it
// is in the file, else the whole blob.
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

// begin asks the source. Only the source is believed about the length: a
// manifest with another length does not make right bytes wrong.
func (f *fill) begin(ctx context.Context) (*Stream, error) {
	off, n := f.first()
	stream, err := f.want.Source.Open(ctx, off, n)
	if err != nil && off > 0 && unsatisfiable(err) { // the blob ends before off
		stream, err = f.want.Source.Open(ctx, 0, n)
	}
	if err != nil {
		return nil, err
	}
	if stream.Size < 0 && (stream.Off > 0 || stream.End > stream.Off) { // a piece of a blob of unknown size
		stream.Body.Close()
		if stream, err = f.want.Source.Open(ctx, 0, -1); err != nil {
			return nil, err
		}
	}
	f.cache.compareSizes(f.want, stream)
	return stream, nil
}

// compareSizes warns of a manifest that gives another length than the source.
func (c *Cache) compareSizes(want Want, stream *Stream) {
	if want.Size >= 0 && stream.Size >= 0 && stream.Size != want.Size {
		c.o.Log.Warn("the manifest gives another length for a blob than its source; the digest decides",
			"digest", want.Digest, "manifest_bytes", want.Size, "source_bytes", stream.Size)
	}
}

// startWriters starts the writers; the first one continues with the open
// stream. A source that answered with less than the whole supports ranges and
// gets up to Options.Connections writers. Any other source gets one, and there
// is no plan. stream is nil if every byte is in the file.
func (f *fill) startWriters(stream *Stream, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.savable() {
		f.parts.Go(f.save)
	}
	if stream == nil {
		return
	}
	first := &task{off: stream.Off, end: f.size}
	if !stream.part(f.size) {
		f.startWriter(first, stream, release, false)
		return
	}
	missing := f.have.missing(f.size)
	first.end = min(max(stream.End, stream.Off), missing.endFrom(stream.Off))
	f.plan = newPlan(missing, pieceOf(f.size, f.cache.o.Connections), f.cache.o.Patience, first)
	f.parts.Go(f.watch)
	f.startWriter(first, stream, release, false)
	if isClosed(f.requested) {
		f.widen()
	}
}

// startWriter starts a writer with the task t. If the answer to t is open
// already, it is stream, and release gives back its slot. f.mu is held. The
// hasher runs as long as a byte is missing, so that f.parts is not empty.
func (f *fill) startWriter(t *task, stream *Stream, release func(), urgent bool) {
	count := func(n int) {
		f.working += n
		if urgent {
			f.urgent += n
		}
	}
	count(1)
	f.parts.Go(func() {
		f.orAbort(func() error { return f.work(t, stream, release) })
		f.mu.Lock()
		defer f.mu.Unlock()
		count(-1)
	})
}

// widen starts the other writers as far as there is something to fetch. A blob
// that no client has requested has one writer. f.mu is held.
func (f *fill) widen() {
	if f.plan == nil || f.state.over() {
		return
	}
	for range f.cache.o.Connections - 1 {
		t := f.plan.next(f.wanted)
		if t == nil {
			return
		}
		f.startWriter(t, nil, nil, false)
	}
}

// urge has the bytes at off fetched at once if no writer will reach them soon.
// f.mu is held.
func (f *fill) urge(off int64) {
	if f.plan == nil || f.state.over() || f.urgent >= maxUrgent || f.cache.o.Connections < 2 || f.size <= maxPiece {
		return
	}
	t, cut := f.plan.urgent(off, time.Now())
	if t == nil {
		return
	}
	if cut {
		f.cache.o.Metrics.Fills.TakenOver(1)
	}
	f.startWriter(t, nil, nil, true)
}

// work is a writer's life: task after task until there is none left.
func (f *fill) work(t *task, stream *Stream, release func()) error {
	for ; t != nil; t, stream, release = f.nextTask(t), nil, nil {
		if err := f.fetch(t, stream, release); err != nil {
			return err
		}
	}
	return nil
}

func (f *fill) nextTask(done *task) *task {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan == nil || f.state.over() {
		return nil
	}
	f.plan.done(done)
	return f.plan.next(f.wanted)
}

// watch gives the pieces of stalled writers to others, as long as the fill
// runs.
func (f *fill) watch() {
	tick := time.NewTicker(f.cache.o.Patience / 4)
	defer tick.Stop()
	for {
		select {
		case <-f.hashEnded:
			return
		case now := <-tick.C:
			f.mu.Lock()
			f.cache.o.Metrics.Fills.TakenOver(f.plan.takeStalled(now))
			f.mu.Unlock()
		}
	}
}

// fetch writes the span of a task into the file, and continues after broken
// connections as a resumer does.
func (f *fill) fetch(t *task, stream *Stream, release func()) (err error) {
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
		from.end = f.waitingSince(t, drop)
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
		if err := f.cache.pacer.wait(f.ctx, n, f.requested); err != nil {
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

// waitingSince notes that a writer waits for its source from now on, and returns
// the offset up to which it is to read. drop ends its transfer.
func (f *fill) waitingSince(t *task, drop context.CancelCauseFunc) (end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.waiting, t.drop = time.Now(), drop
	return t.end
}

// claim returns how many of the n bytes at off that have come are the writer's
// to write: no other writer writes them.
func (f *fill) claim(t *task, off int64, n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.plan != nil {
		f.plan.received = now
	}
	return t.claim(off, n, now)
}

// prepare reserves room and creates the file. A partial file is continued if
// its source supports ranges and gives the size that it gave before.
func (f *fill) prepare(stream *Stream) error {
	size := stream.Size
	if f.resumed {
		if size == f.size && stream.part(size) && f.have.endFrom(stream.Off) == stream.Off {
			return nil
		}
		f.dropPartial()
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
	if left, ok := f.cache.o.Ledger.Resume(f.want.Digest); ok { // an earlier partial file, which could not be read
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

// grow reserves more for a blob of unknown size. Its only writer calls it.
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

// reserveSome reserves a step in addition to what is reserved, or less if a
// whole step does not fit.
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
