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
)

// copyChunk sends n bytes at the file's position. w gets the file itself, so that
// the kernel can send it (sendfile).
func copyChunk(w io.Writer, file *os.File, n int64) (int64, error) {
	sent, err := io.CopyN(w, file, n)
	if err != nil && (ofTheFile(err) || errors.Is(err, syscall.ETIMEDOUT) && !readsOn(file)) {
		err = fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return sent, err
}

// copySpan sends the bytes from at, the file's position, to end.
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

// ofTheFile reports whether an error of sending is the file's and not the
// connection's. sendfile returns both alike, but a connection does not fail with
// a file's errors, except ETIMEDOUT.
func ofTheFile(err error) bool {
	var path *fs.PathError
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ESTALE) ||
		errors.Is(err, syscall.EACCES) || errors.As(err, &path)
}

// readsOn reports whether a file can be read at its position, as far as the kernel
// reads ahead.
func readsOn(file *os.File) bool {
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	at, err := file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = file.ReadAt(buf[:], at)
	}
	return err == nil || errors.Is(err, io.EOF)
}

// held reads a stored file.
type held struct {
	cache   *Cache
	digest  digest.Digest
	size    int64
	trusted bool // verified within the interval, and unchanged since
	// replaced is unread.replaced from before the file was opened.
	replaced int64
	handle   *handle
	file     *os.File
}

// send starts the verification of a file that is not trusted. A span that reaches
// the end waits for the result before its tail. Any other one is sent, and the
// file is verified in the background.
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
	if errors.Is(err, errNotHeld) { // evicted since it was opened
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

// hashOf hashes part of a file with the algorithm of d.
func hashOf(d digest.Digest, file io.ReaderAt, part span) (hash.Hash, error) {
	sum := d.Algorithm().Hash()
	n, err := io.Copy(sum, io.NewSectionReader(file, part.off, part.end-part.off))
	if err == nil && n < part.end-part.off {
		err = io.ErrUnexpectedEOF
	}
	return sum, err
}

// continueUncached returns a stream that continues at off after a file that was
// not trusted has failed. What the client was given of it is hashed together with
// what follows. If that cannot be read again, the error is cause.
func (h *held) continueUncached(want Want, off int64, cause error) (*uncached, error) {
	hash, err := hashOf(h.digest, h.file, span{0, off})
	if err != nil {
		return nil, cause
	}
	h.cache.o.Metrics.Fills.Uncached(uncachedDisk.String())
	return &uncached{cache: h.cache, want: want, size: h.size, hash: hash, hashed: off}, nil
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
	doubt  error // why the file may have lost what was written to it
}

// enter counts an opener in and reports whether the fill may be joined: it has
// not failed. The caller holds cache.mu, so that no fill is joined once it is
// off the list.
func (f *fill) enter() bool {
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

// open waits until openers can be answered, and returns the blob for one reader,
// who was counted in by enter. began says that its request began the fill.
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
	size, writer, err, state := f.size, f.writer, f.err, f.state
	f.mu.Unlock()
	switch {
	case state == stateUncached:
		return f.cache.newUncached(want, size, spare, uncachedReasonOf(err)), nil
	case isDisk(err):
		return f.cache.newUncached(want, size, nil, uncachedDisk), nil
	case err != nil:
		return nil, err
	}
	one := f.cache.handles.acquire(want.Digest)
	file, err := writer.Open()
	if err != nil {
		f.cache.handles.release(want.Digest, one)
		if errors.Is(err, blobs.ErrDiscarded) || errors.Is(err, fs.ErrNotExist) {
			return nil, errAgain // the fill has failed, or its blob was evicted, just now
		}
		return nil, err
	}
	f.countReaders(1)
	origin := Joined
	if began {
		origin = Filling
	}
	return &Blob{
		Size: size, Origin: origin, RecentlyWrong: f.cache.wrong.has(want.Digest), cache: f.cache, want: want,
		body: &reader{fill: f, handle: one, file: file},
	}, nil
}

func (f *fill) countReaders(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers += n
}

// leave counts an opener out. The first one to leave an uncached fill gets its
// open stream, and must close it.
func (f *fill) leave() (spare *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	spare, f.spare = f.spare, nil
	return spare
}

// available waits until bytes from off on may be read. It returns up to where,
// which is off itself at the end of the blob, and whether more may follow.
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

// await notes that a reader waits at off, so that the bytes there are fetched
// first. f.mu is held.
func (f *fill) await(off int64) {
	f.wanted[off]++
	if f.have.endFrom(off) == off { // else it waits only for the digest
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

// readable returns up to where a reader at off may read now, and whether more may
// follow. Before the digest is known to be right, the tail is not readable. After
// a failure, the error comes once the readable bytes have been read. f.mu is held.
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

func (r *reader) send(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if n == 0 { // an empty blob has a digest too
		_, _, err := r.fill.available(ctx, off)
		return 0, readError(err)
	}
	for n < 0 || sent < n {
		at := off + sent
		end, more, err := r.fill.available(ctx, at)
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
			m, err = copySpan(w, r.file, at, end)
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

// finish sends the bytes from at, the file's position, up to the end of a blob with the right digest. Until it is
// synced, the system may lose what was written: a page that cannot be written
// back reads as zeros sooner or later, even after it was hashed. So the tail is
// not sent before it is known that nothing before it was lost.
func (r *reader) finish(w Sink, at, end int64) (sent int64, err error) {
	if r.fill.stored() {
		return copySpan(w, r.file, at, end)
	}
	if sent, err = copySpan(w, r.file, at, end-tail); err != nil {
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

// doubtful reports whether bytes of the file may have been lost before they were
// read. What is lost stays lost: a file that is right now was right whenever it
// was read.
func (r *reader) doubtful() bool {
	if r.doubt == nil {
		r.doubt = r.fill.cache.o.Store.Sound(r.file)
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
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return err
}

// continueUncached returns a stream that continues at off after the file has
// failed under a reader that began at start. Everything that the client was given
// is part of the hash with which the stream continues, or is compared with what
// the source gives. If neither is possible, it fails.
func (r *reader) continueUncached(want Want, start, off int64, cause error) (*uncached, error) {
	f := r.fill
	u := &uncached{cache: f.cache, want: want}
	if off > start {
		if err := r.awaitHasher(cause); err != nil {
			return nil, err
		}
		if err := r.carryOver(u, span{start, off}); err != nil {
			return nil, errors.Join(cause, err)
		}
	}
	u.size = f.known()
	f.cache.o.Metrics.Fills.Uncached(uncachedDisk.String())
	return u, nil
}

// awaitHasher waits until the hasher has ended. If the fill still runs, only this
// reader's file has failed, and the error is cause.
func (r *reader) awaitHasher(cause error) error {
	if !isClosed(r.fill.hashEnded) && r.fill.failed() == nil {
		return cause
	}
	<-r.fill.hashEnded
	return nil
}

// carryOver has u verify what the client was given, as far as it is not verified.
func (r *reader) carryOver(u *uncached, given span) error {
	f := r.fill
	f.mu.Lock()
	verified, hashed := f.verified, f.hashed
	f.mu.Unlock()
	if r.doubtful() {
		sum, err := hashOf(f.want.Digest, r.file, given)
		u.prior = &prior{span: given, sum: sum.Sum(nil), hash: f.want.Digest.Algorithm().Hash()}
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
	u.hash, u.hashed, u.ahead = clone, hashed, make([]byte, ahead)
	_, err = r.file.ReadAt(u.ahead, given.end)
	return err
}

// stored reports whether the blob is synced and committed.
func (f *fill) stored() bool { return isClosed(f.done) && f.failed() == nil }

// known returns the blob's size, negative while unknown.
func (f *fill) known() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

func (r *reader) close() {
	_ = r.file.Close()
	r.fill.countReaders(-1)
	r.fill.cache.handles.release(r.fill.want.Digest, r.handle)
}
