package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/metrics"
)

// copyChunk sends n bytes at the file's position. The file goes to w as it
// is, so that the kernel can send it (sendfile).
func copyChunk(w io.Writer, file *os.File, n int64) (int64, error) {
	sent, err := io.CopyN(w, file, n)
	if err != nil && (ofTheFile(err) || errors.Is(err, syscall.ETIMEDOUT) && !readsOn(file)) {
		err = fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return sent, err
}

// copySpan sends what lies between at and end, where the file's position is at.
func copySpan(w Sink, file *os.File, at, end int64) (sent int64, err error) {
	for at+sent < end {
		m, err := copyChunk(w, file, min(Chunk, end-at-sent))
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// ofTheFile tells an error of the file from one of the client. sendfile gives
// both as one of the connection; but for ETIMEDOUT, what a file can fail with, a
// connection cannot.
func ofTheFile(err error) bool {
	var path *fs.PathError
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ESTALE) ||
		errors.Is(err, syscall.EACCES) || errors.As(err, &path)
}

// readsOn reports whether a file can be read from its position on, as far as
// the kernel reads ahead of what it sends.
func readsOn(file *os.File) bool {
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	at, err := file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = file.ReadAt(buf[:], at)
	}
	return err == nil || errors.Is(err, io.EOF)
}

// held reads a whole file.
type held struct {
	cache   *Cache
	digest  digest.Digest
	size    int64
	trusted bool // verified not long ago, and looks as it did then
	handle  *handle
	file    *os.File
}

// send has a file that is not trusted hashed beside it. What reaches the end
// waits for the verdict before its tail; what does not is served, and the file
// is verified behind it.
func (h *held) send(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if h.trusted {
		return h.copy(w, off, n)
	}
	check := h.cache.check(h.digest)
	if off+n < h.size {
		return h.copy(w, off, n)
	}
	before := max(min(n, h.size-tail-off), 0)
	if sent, err = h.copy(w, off, before); err != nil {
		return sent, err
	}
	if err := w.FlushError(); err != nil {
		return sent, err
	}
	err = check.wait(ctx)
	if errors.Is(err, errNotHeld) { // evicted since it was opened here
		err = verifyFile(h.digest, h.file, h.size)
	}
	if err != nil {
		return sent, err
	}
	h.trusted = true
	m, err := h.copy(w, off+sent, n-sent)
	return sent + m, err
}

func (h *held) copy(w Sink, off, n int64) (sent int64, err error) {
	if _, err := h.file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return copySpan(w, h.file, off, off+n)
}

// verifyFile hashes an open file of size bytes.
func verifyFile(d digest.Digest, file io.ReaderAt, size int64) error {
	sum, err := hashOf(d, file, span{0, size})
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if !hashesTo(sum, d) {
		return ErrWrongContent
	}
	return nil
}

// hashOf reads part of a file under the algorithm of d.
func hashOf(d digest.Digest, file io.ReaderAt, part span) (hash.Hash, error) {
	sum := d.Algorithm().Hash()
	n, err := io.Copy(sum, io.NewSectionReader(file, part.off, part.end-part.off))
	if err == nil && n < part.end-part.off {
		err = io.ErrUnexpectedEOF
	}
	return sum, err
}

// passOn returns a stream that goes on at off where a file that was not
// trusted has failed. What the reader was given of it is hashed together with
// what follows; where it cannot be read again, there is no going on.
func (h *held) passOn(want Want, off int64, cause error) (*passing, error) {
	hash, err := hashOf(h.digest, h.file, span{0, off})
	if err != nil {
		return nil, cause
	}
	h.cache.o.Metrics.Fills.Bypassed(metrics.BypassDisk)
	return &passing{cache: h.cache, want: want, size: h.size, hash: hash, hashed: off}, nil
}

func (h *held) close() {
	_ = h.file.Close()
	h.cache.handles.release(h.digest, h.handle)
}

// reader reads the file of a fill while it grows.
type reader struct {
	fill   *fill
	handle *handle
	file   *os.File
	doubt  error // why what was read of the file may not be what was written to it
}

// enter counts an opener in, unless the fill has ended badly. The caller
// holds cache.mu, so that no fill is entered once it is off the list.
func (f *fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.waiting++
	if !isClosed(f.asked) {
		close(f.asked)
		f.widen()
	}
	return true
}

// open waits until the fill is announced and returns its blob for one reader.
// The reader was counted in by enter.
func (f *fill) open(ctx context.Context, want Want, began bool) (*Blob, error) {
	select {
	case <-f.announced:
	case <-ctx.Done():
		if spare := f.leave(); spare != nil {
			spare.Body.Close()
		}
		return nil, context.Cause(ctx)
	}
	spare := f.leave()
	f.mu.Lock()
	size, writer, err := f.size, f.writer, f.err
	f.mu.Unlock()
	switch {
	case errors.Is(err, errNotKept):
		return f.cache.passing(want, size, spare, bypassOf(err)), nil
	case isDisk(err):
		return f.cache.passing(want, size, nil, metrics.BypassDisk), nil
	case err != nil:
		return nil, err
	}
	one := f.cache.handles.acquire(want.Digest)
	file, err := writer.Open()
	if err != nil {
		f.cache.handles.release(want.Digest, one)
		if errors.Is(err, blobs.ErrDiscarded) || errors.Is(err, fs.ErrNotExist) {
			return nil, errAgain // it was given up, or committed and evicted, just now
		}
		return nil, err
	}
	origin := Joined
	if began {
		origin = Filling
	}
	return &Blob{
		Size: size, Origin: origin, Suspect: f.cache.suspects.has(want.Digest), cache: f.cache, want: want,
		body: &reader{fill: f, handle: one, file: file},
	}, nil
}

// leave counts an opener out. The first to leave a fill that is not kept
// takes the source that is open; when nobody takes it, it is closed.
func (f *fill) leave() (spare *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	spare, f.spare = f.spare, nil
	return spare
}

// available waits until bytes from off on may be read and tells up to where,
// and whether more could follow. At the end of the blob that is off itself.
func (f *fill) available(ctx context.Context, off int64) (end int64, more bool, err error) {
	for {
		f.mu.Lock()
		end, more, err = f.readable(off)
		if end > off || !more || err != nil {
			f.mu.Unlock()
			return end, more, err
		}
		changed := f.changed
		f.await(off)
		f.mu.Unlock()
		select {
		case <-changed:
			f.arrived(off)
		case <-ctx.Done():
			f.arrived(off)
			return off, false, context.Cause(ctx)
		}
	}
}

// await notes that a reader waits at off, so that the bytes there come first.
// f.mu is held.
func (f *fill) await(off int64) {
	f.wanted[off]++
	if f.have.endFrom(off) == off { // it is not only the tail that is held back
		f.urge(off)
	}
}

// arrived is the end of await.
func (f *fill) arrived(off int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted[off]--; f.wanted[off] == 0 {
		delete(f.wanted, off)
	}
}

// readable tells up to where a reader at off may read now: what is there, but
// for the tail before the verdict. After a failure the error comes once the
// readable bytes have been read. f.mu is held.
func (f *fill) readable(off int64) (end int64, more bool, err error) {
	if f.verified {
		return f.size, false, nil
	}
	end = f.have.endFrom(off)
	if f.size >= 0 {
		end = min(end, f.size-tail)
	} else {
		end = min(end, f.have.endFrom(0)-tail)
	}
	end = max(end, off)
	if end == off && f.err != nil {
		return off, false, f.err
	}
	return end, true, nil
}

// verdict waits until the digest is known to be right.
func (f *fill) verdict(ctx context.Context) error {
	select {
	case <-f.judged:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verified {
		return nil
	}
	return f.err
}

func (r *reader) send(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if n == 0 { // an empty blob is right or wrong like any other
		return 0, readError(r.fill.verdict(ctx))
	}
	for n < 0 || sent < n {
		at := off + sent
		end, more, err := r.fill.available(ctx, at)
		if err != nil {
			return sent, readError(err)
		}
		if end <= at { // this is the end, which was not known before
			if n >= 0 {
				return sent, io.ErrUnexpectedEOF
			}
			return sent, nil
		}
		if n >= 0 {
			end = min(end, off+n)
		}
		part := r.finish
		if more || end < r.fill.known() {
			part = r.copy
		}
		m, err := part(w, at, end)
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

// copy sends what lies between at, where the file is read, and end.
func (r *reader) copy(w Sink, at, end int64) (sent int64, err error) {
	return copySpan(w, r.file, at, end)
}

// finish is copy to the end of a blob that was found right. Until it is on
// disk the system may lose what was written: a page that cannot be written
// back reads as zeros sooner or later, long after it was hashed. So the tail
// is not sent before it is known that nothing was lost of what went before it.
func (r *reader) finish(w Sink, at, end int64) (sent int64, err error) {
	if r.fill.kept() {
		return r.copy(w, at, end)
	}
	if sent, err = r.copy(w, at, end-tail); err != nil {
		return sent, err
	}
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	last := buf[:end-at-sent]
	if _, err := r.file.ReadAt(last, at+sent); err != nil {
		return sent, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if r.doubtful() {
		if err := verifyFile(r.fill.want.Digest, r.file, end); err != nil {
			return sent, fmt.Errorf("%w: %w", errUnreadable, r.doubt)
		}
	}
	m, err := w.Write(last)
	return sent + int64(m), err
}

// doubtful tells whether something that was written to the file may have been
// lost before it was read. What is lost stays so: a file that is right
// now was right whenever it was read.
func (r *reader) doubtful() bool {
	if r.doubt == nil {
		r.doubt = r.fill.cache.o.Store.Sound(r.file)
	}
	if err := r.fill.failed(); r.doubt == nil && isDisk(err) && !blobs.NoSpace(err) {
		r.doubt = err
	}
	return r.doubt != nil
}

// readError marks what the source may mend: a disk that failed under the
// fill.
func readError(err error) error {
	if isDisk(err) {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return err
}

// passOn returns a stream that goes on at off where the file has failed under
// a reader that began at start. Everything the reader was given is under the
// hash that the stream goes on with, or is held against the source's; where
// neither can be, there is no going on.
func (r *reader) passOn(want Want, start, off int64, cause error) (*passing, error) {
	f := r.fill
	p := &passing{cache: f.cache, want: want}
	if off > start {
		if err := r.ended(cause); err != nil {
			return nil, err
		}
		if err := r.account(p, span{start, off}); err != nil {
			return nil, errors.Join(cause, err)
		}
	}
	p.size = f.known()
	f.cache.o.Metrics.Fills.Bypassed(metrics.BypassDisk)
	return p, nil
}

// ended waits until the fill has its verdict, or fails with cause: the fill is
// well, and only this reader's file is not.
func (r *reader) ended(cause error) error {
	if !isClosed(r.fill.judged) && r.fill.failed() == nil {
		return cause
	}
	<-r.fill.judged
	return nil
}

// account has p answer for what the reader was given.
func (r *reader) account(p *passing, given span) error {
	f := r.fill
	f.mu.Lock()
	verified, hashed := f.verified, f.hashed
	f.mu.Unlock()
	if r.doubtful() {
		sum, err := hashOf(f.want.Digest, r.file, given)
		p.prior = &prior{span: given, sum: sum.Sum(nil), hash: f.want.Digest.Algorithm().Hash()}
		return err
	}
	if verified {
		return nil
	}
	ahead := hashed - given.end
	cloner, ok := f.hash.(hash.Cloner)
	if !ok || ahead < 0 || ahead > tail {
		return errors.ErrUnsupported
	}
	clone, err := cloner.Clone()
	if err != nil {
		return err
	}
	p.hash, p.hashed, p.ahead = clone, hashed, make([]byte, ahead)
	_, err = r.file.ReadAt(p.ahead, given.end)
	return err
}

// kept tells whether the blob is on disk, whole.
func (f *fill) kept() bool { return isClosed(f.over) && f.failed() == nil }

// known is the blob's size as far as it is known.
func (f *fill) known() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

func (r *reader) close() {
	_ = r.file.Close()
	r.fill.cache.handles.release(r.fill.want.Digest, r.handle)
}
