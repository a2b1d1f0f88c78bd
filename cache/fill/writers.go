package fill

import (
	"context"
	"errors"
	"io"
	"time"

	"hubcap/cache/blobs"
	"hubcap/eviction"
)

// maxUrgent is how many writers a fill may have, in addition to
// Options.Connections, for readers that are far from every writer.
const maxUrgent = 2

// firstSpan returns what to ask the source for first: the piece that the first
// reader waits for if the blob may be worth several connections or some of it
// is in the file, else the whole blob. A blob that no client has requested is asked for
// as a whole too, by its range: its only writer is spared the round trips between
// pieces, and what would take it long when a client comes can still be shared out.
func (f *Fill) firstSpan() (off, n int64) {
	if f.resumed {
		gap := f.have.missing(f.size).from(f.want.Off)
		return gap.off, min(gap.end-gap.off, pieceOf(f.size, f.fills.o.Connections))
	}
	switch size := f.want.Size; {
	case f.fills.o.Connections == 1 || 0 <= size && size <= maxPiece:
		return 0, -1
	case size > maxPiece && !isClosed(f.requested):
		return 0, size
	default:
		return f.want.Off, pieceOf(size, f.fills.o.Connections)
	}
}

// begin asks for the first piece. Only the source is believed about the length: a
// manifest with another length does not make right bytes wrong.
func (f *Fill) begin(ctx context.Context) (*Stream, error) {
	off, n := f.firstSpan()
	stream, err := f.source.Open(ctx, off, n)
	if err != nil && off > 0 && unsatisfiable(err) { // the blob ends before off
		stream, err = f.source.Open(ctx, 0, n)
	}
	if err != nil {
		return nil, err
	}
	if stream.Size < 0 && (stream.Off > 0 || stream.End > stream.Off) { // a piece of a blob of unknown size
		stream.Body.Close()
		if stream, err = f.source.Open(ctx, 0, -1); err != nil {
			return nil, err
		}
	}
	f.fills.compareSizes(f.want, stream)
	return stream, nil
}

// compareSizes warns of a manifest that gives another length than the source.
func (s *Fills) compareSizes(want Want, stream *Stream) {
	if want.Size >= 0 && stream.Size >= 0 && stream.Size != want.Size {
		s.o.Log.Warn("the manifest gives another length for a blob than its source; the digest decides",
			"digest", want.Digest, "manifest_bytes", want.Size, "source_bytes", stream.Size)
	}
}

// startWriters starts the writers; the first one continues with the open
// stream. A source that answered with less than the whole supports ranges and
// gets up to Options.Connections writers. Any other source gets one, and there
// is no plan. stream is nil if every byte is in the file.
func (f *Fill) startWriters(stream *Stream) {
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
		f.startWriter(first, stream, false)
		return
	}
	missing := f.have.missing(f.size)
	first.end = min(max(stream.End, stream.Off), missing.endFrom(stream.Off))
	f.plan = newPlan(missing, pieceOf(f.size, f.fills.o.Connections), f.fills.o.Patience, first)
	f.parts.Go(f.watch)
	f.startWriter(first, stream, false)
	if isClosed(f.requested) {
		f.widen()
	}
}

// startWriter starts a writer with the task t. If the answer to t is open
// already, it is stream. f.mu is held. The hasher runs as long as a byte is
// missing, so that f.parts is not empty.
func (f *Fill) startWriter(t *task, stream *Stream, urgent bool) {
	count := func(n int) {
		f.working += n
		if urgent {
			f.urgent += n
		}
	}
	count(1)
	f.parts.Go(func() {
		f.orAbort(func() error { return f.work(t, stream) })
		f.mu.Lock()
		defer f.mu.Unlock()
		count(-1)
	})
}

// widen starts the other writers as far as there is something to fetch. A blob
// that no client has requested has one writer. f.mu is held.
func (f *Fill) widen() {
	if f.plan == nil || f.state.over() {
		return
	}
	for f.working-f.urgent < f.fills.o.Connections {
		t := f.plan.next(f.wanted)
		if t == nil {
			return
		}
		f.startWriter(t, nil, false)
	}
}

// urge has the bytes at off fetched at once if no writer will reach them soon.
// f.mu is held.
func (f *Fill) urge(off int64) {
	if f.plan == nil || f.state.over() || f.urgent >= maxUrgent || f.fills.o.Connections < 2 || f.size <= maxPiece {
		return
	}
	t, cut := f.plan.urgent(off, time.Now())
	if t == nil {
		return
	}
	if cut {
		f.fills.o.Metrics.Fills.TakenOver(1)
	}
	f.startWriter(t, nil, true)
}

// work is a writer's life: task after task until there is none left.
func (f *Fill) work(t *task, stream *Stream) error {
	for ; t != nil; t, stream = f.nextTask(t), nil {
		if err := f.fetch(t, stream); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fill) nextTask(done *task) *task {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan == nil || f.state.over() {
		return nil
	}
	f.plan.done(done)
	return f.plan.next(f.wanted)
}

// watch gives the pieces of stalled writers to others, and shares out what one of them
// would take long for, as long as the fill runs.
func (f *Fill) watch() {
	tick := time.NewTicker(f.fills.o.Patience / 4)
	defer tick.Stop()
	for {
		select {
		case <-f.hashEnded:
			return
		case now := <-tick.C:
			f.mu.Lock()
			f.fills.o.Metrics.Fills.TakenOver(f.plan.takeStalled(now))
			if isClosed(f.requested) && f.working > 0 {
				f.plan.share(f.speed.perSecond(now) / int64(f.working))
				f.widen()
			}
			f.mu.Unlock()
		}
	}
}

// fetch writes the span of a task into the file, and continues after broken
// connections as a resumer does.
func (f *Fill) fetch(t *task, stream *Stream) error {
	ctx, drop := context.WithCancelCause(f.ctx)
	defer drop(nil)
	if stream != nil { // it was opened before there was a task
		defer context.AfterFunc(ctx, func() { stream.Body.Close() })()
	}
	from := &resumer{
		ctx: ctx, source: f.source, stream: stream, off: t.off, size: f.known(),
		resumed: f.fills.o.Metrics.Fills.Resumed,
	}
	defer from.Close()
	buf := Buffers.Get().(*[BufferSize]byte)
	defer Buffers.Put(buf)
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
		if !from.near() && !f.want.Local {
			if err := f.fills.pacer.wait(f.ctx, n, f.requested); err != nil {
				return err
			}
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
func (f *Fill) waitingSince(t *task, drop context.CancelCauseFunc) (end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.waiting, t.drop = time.Now(), drop
	return t.end
}

// claim returns how many of the n bytes at off that have come are the writer's
// to write: no other writer writes them.
func (f *Fill) claim(t *task, off int64, n int) int {
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
func (f *Fill) prepare(stream *Stream) error {
	size := stream.Size
	if f.resumed {
		if size == f.size && stream.part(size) && f.have.endFrom(stream.Off) == stream.Off {
			return nil
		}
		f.dropPartial()
	}
	if err := f.fills.o.Disk.Writable(); err != nil {
		return diskError{err}
	}
	if err := f.fills.o.Holder.Clear(f.want.Digest); err != nil {
		return diskError{err}
	}
	if size > f.fills.o.MaxBlob {
		return eviction.ErrTooLarge
	}
	room := size
	var err error
	if size < 0 {
		room, err = f.reserveSome(0)
	} else {
		err = f.fills.o.Reserve(f.want.Digest, room)
	}
	if err != nil {
		return err
	}
	w, err := f.create(room)
	if err != nil {
		f.fills.o.Ledger.Release(room)
		return diskError{err}
	}
	if left, ok := f.fills.o.Ledger.Resume(f.want.Digest); ok { // an earlier partial file, which could not be read
		f.fills.o.Files.Unlinked(f.want.Digest, func() { f.fills.o.Ledger.Release(left) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size, f.writer, f.reserved = size, w, room
	return nil
}

func (f *Fill) create(room int64) (*blobs.Writer, error) {
	w, err := f.fills.o.Store.Create(f.want.Digest)
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
func (f *Fill) grow(end int64) error {
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
func (f *Fill) reserveSome(reserved int64) (room int64, err error) {
	left := f.fills.o.MaxBlob - reserved
	if left <= 0 {
		return 0, eviction.ErrTooLarge
	}
	for room = min(step, left); ; room = max(room/4, min(BufferSize, left)) {
		room = (room + 4095) / 4096 * 4096 // whole blocks add up without rounding
		if err = f.fills.o.Reserve(f.want.Digest, room); err == nil || room <= BufferSize {
			return room, err
		}
	}
}
