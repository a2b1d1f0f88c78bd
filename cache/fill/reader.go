package fill

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"hubcap/cache/blobs"
	"hubcap/cache/locks"
)

// Reader reads the file of a fill while it grows.
type Reader struct {
	fill   *Fill
	handle *locks.File
	file   *os.File
	doubt  error // why the file may have lost what was written to it
}

// enter counts an opener in and reports whether the fill may be joined: it has
// not failed. The caller holds cache.mu, so that no fill is joined once it is
// off the list.
func (f *Fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.waiting++
	if !isClosed(f.requested) {
		close(f.requested)
		f.widen()
	}
	return true
}

// Open waits until openers can be answered, and returns the blob for one reader,
// who was counted in by Join. began says that its request began the fill.
func (f *Fill) Open(ctx context.Context, want Want, began bool) (Opened, error) {
	select {
	case <-f.announced:
	case <-ctx.Done():
		if spare := f.leave(); spare != nil {
			spare.Body.Close()
		}
		return Opened{}, context.Cause(ctx)
	}
	spare := f.leave()
	f.mu.Lock()
	size, writer, err, state, place := f.size, f.writer, f.err, f.state, f.place
	f.mu.Unlock()
	switch {
	case state == stateUncached:
		return f.fills.newUncached(want, size, spare, reasonOf(err)), nil
	case isDisk(err):
		return f.fills.newUncached(want, size, nil, ReasonDisk), nil
	case err != nil:
		return Opened{}, err
	}
	one := f.fills.o.Files.Acquire(want.Digest)
	file, err := writer.Open()
	if err != nil {
		f.fills.o.Files.Release(want.Digest, one)
		if errors.Is(err, blobs.ErrDiscarded) || errors.Is(err, fs.ErrNotExist) {
			return Opened{}, ErrAgain // the fill has failed, or its blob was evicted, just now
		}
		return Opened{}, err
	}
	f.countReaders(1)
	origin := Joined
	if began {
		origin = Filling
	}
	return Opened{&Reader{fill: f, handle: one, file: file}, size, origin, place}, nil
}

func (f *Fill) countReaders(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers += n
}

// leave counts an opener out. The first one to leave an uncached fill gets its
// open stream, and must close it.
func (f *Fill) leave() (spare *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	spare, f.spare = f.spare, nil
	return spare
}

// available waits until bytes from off on may be read. It returns up to where,
// which is off itself at the end of the blob, and whether more may follow. A reader that
// asks for its first bytes is woken as soon as they come, any other one with some more.
func (f *Fill) available(ctx context.Context, off int64, first bool) (end int64, more bool, err error) {
	for {
		f.mu.Lock()
		end, more, err = f.readable(off)
		if end > off || !more || err != nil {
			f.mu.Unlock()
			return end, more, err
		}
		changed := f.changed
		f.await(off, first)
		f.mu.Unlock()
		select {
		case <-changed:
			f.arrived(off, first)
		case <-ctx.Done():
			f.arrived(off, first)
			return off, false, context.Cause(ctx)
		}
	}
}

// await notes that a reader waits at off, so that the bytes there are fetched
// first. f.mu is held.
func (f *Fill) await(off int64, first bool) {
	f.wanted[off]++
	if first {
		f.first[off]++
	}
	if f.have.endFrom(off) == off { // else it waits only for the digest
		f.urge(off)
	}
}

// arrived is the end of await.
func (f *Fill) arrived(off int64, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	countOut(f.wanted, off)
	if first {
		countOut(f.first, off)
	}
}

func countOut(waiting map[int64]int, off int64) {
	if waiting[off]--; waiting[off] == 0 {
		delete(waiting, off)
	}
}

// readable returns up to where a reader at off may read now, and whether more may
// follow. Before the digest is known to be right, the tail is not readable. After
// a failure, the error comes once the readable bytes have been read. f.mu is held.
func (f *Fill) readable(off int64) (end int64, more bool, err error) {
	if f.verified {
		return f.size, false, nil
	}
	end = f.have.endFrom(off)
	if f.size >= 0 {
		end = min(end, f.size-Tail)
	} else {
		end = min(end, f.have.endFrom(0)-Tail)
	}
	end = max(end, off)
	if end == off && f.err != nil {
		return off, false, f.err
	}
	return end, true, nil
}

// Send implements Body.
func (r *Reader) Send(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if n == 0 { // an empty blob has a digest too
		_, _, err := r.fill.available(ctx, off, true)
		return 0, readError(err)
	}
	for n < 0 || sent < n {
		at := off + sent
		end, more, err := r.fill.available(ctx, at, sent == 0)
		if err != nil {
			return sent, readError(err)
		}
		if end <= at { // the end, which was unknown before
			if n >= 0 {
				return sent, io.ErrUnexpectedEOF
			}
			return sent, nil
		}
		if n >= 0 {
			end = min(end, off+n)
		}
		var m int64
		if more || end < r.fill.known() {
			m, err = CopySpan(w, r.file, at, end)
		} else {
			m, err = r.finish(w, at, end)
		}
		sent += m
		if err != nil {
			return sent, err
		}
		if more {
			if err := w.FlushError(); err != nil {
				return sent, err
			}
		}
	}
	return sent, nil
}

// finish sends the bytes from at, the file's position, up to the end of a blob with the
// right digest. Until it is synced, the system may lose what was written: a page that
// cannot be written back reads as zeros sooner or later, even after it was hashed. So
// the tail is not sent before it is known that nothing before it was lost.
func (r *Reader) finish(w Sink, at, end int64) (sent int64, err error) {
	if r.fill.stored() {
		return CopySpan(w, r.file, at, end)
	}
	if sent, err = CopySpan(w, r.file, at, end-Tail); err != nil {
		return sent, err
	}
	buf := Buffers.Get().(*[BufferSize]byte)
	defer Buffers.Put(buf)
	last := buf[:end-at-sent]
	if _, err := r.file.ReadAt(last, at+sent); err != nil {
		return sent, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if r.doubtful() {
		if err := VerifyFile(r.fill.want.Digest, r.file, end); err != nil {
			return sent, fmt.Errorf("%w: %w", ErrUnreadable, r.doubt)
		}
	}
	m, err := w.Write(last)
	return sent + int64(m), err
}

// doubtful reports whether bytes of the file may have been lost before they were
// read. What is lost stays lost: a file that is right now was right whenever it
// was read.
func (r *Reader) doubtful() bool {
	if r.doubt == nil {
		r.doubt = r.fill.fills.o.Store.Sound(r.file)
	}
	if err := r.fill.failed(); r.doubt == nil && isDisk(err) && !blobs.NoSpace(err) {
		r.doubt = err
	}
	return r.doubt != nil
}

// readError marks an error after which the source may give the rest: a disk that
// failed under the fill.
func readError(err error) error {
	if isDisk(err) {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return err
}

// ContinueUncached returns a stream that continues at off after the file has
// failed under a reader that began at start. Everything that the client was given
// is part of the hash with which the stream continues, or is compared with what
// the source gives. If neither is possible, it fails.
func (r *Reader) ContinueUncached(want Want, start, off int64, cause error) (Body, error) {
	f := r.fill
	u := &uncached{fills: f.fills, want: want, source: newChooser(f.fills, want, false)}
	if off > start {
		if err := r.awaitHasher(cause); err != nil {
			return nil, err
		}
		if err := r.carryOver(u, span{start, off}); err != nil {
			return nil, errors.Join(cause, err)
		}
	}
	u.size = f.known()
	f.fills.o.Metrics.Fills.Uncached(ReasonDisk.String())
	return u, nil
}

// awaitHasher waits until the hasher has ended. If the fill still runs, only this
// reader's file has failed, and the error is cause.
func (r *Reader) awaitHasher(cause error) error {
	if !isClosed(r.fill.hashEnded) && r.fill.failed() == nil {
		return cause
	}
	<-r.fill.hashEnded
	return nil
}

// carryOver has u verify what the client was given, as far as it is not verified.
func (r *Reader) carryOver(u *uncached, given span) error {
	f := r.fill
	f.mu.Lock()
	verified, hashed := f.verified, f.hashed
	f.mu.Unlock()
	if r.doubtful() {
		sum, err := HashOf(f.want.Digest, r.file, given.off, given.end)
		u.prior = &prior{span: given, sum: sum.Sum(nil), hash: f.want.Digest.Algorithm().Hash()}
		return err
	}
	if verified {
		return nil
	}
	ahead := hashed - given.end
	cloner, ok := f.hash.(hash.Cloner)
	if !ok || ahead < 0 || ahead > Tail {
		return errors.ErrUnsupported
	}
	clone, err := cloner.Clone()
	if err != nil {
		return err
	}
	u.hash, u.hashed, u.ahead = clone, hashed, make([]byte, ahead)
	_, err = r.file.ReadAt(u.ahead, given.end)
	return err
}

// stored reports whether the blob is synced and committed.
func (f *Fill) stored() bool { return isClosed(f.done) && f.failed() == nil }

// known returns the blob's size, negative while unknown.
func (f *Fill) known() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// Close implements Body.
func (r *Reader) Close() {
	_ = r.file.Close()
	r.fill.countReaders(-1)
	r.fill.fills.o.Files.Release(r.fill.want.Digest, r.handle)
}
