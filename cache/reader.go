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
	if err != nil && ofTheFile(err) {
		err = fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return sent, err
}

// ofTheFile tells an error of the file from one of the client. sendfile gives
// both as one of the connection; what a file can fail with, a connection
// cannot.
func ofTheFile(err error) bool {
	var path *fs.PathError
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.As(err, &path)
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
	err = check.verdict(ctx)
	if errors.Is(err, errNotHeld) { // evicted since it was opened here
		err = h.hash()
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
	for sent < n {
		m, err := copyChunk(w, h.file, min(chunk, n-sent))
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// hash verifies the open file itself.
func (h *held) hash() error {
	sum := h.digest.Algorithm().Hash()
	if _, err := io.Copy(sum, io.NewSectionReader(h.file, 0, h.size)); err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if !hashesTo(sum, h.digest) {
		return ErrWrongContent
	}
	return nil
}

// passOn returns a stream that goes on at off where a file that was not
// trusted has failed. What the reader was given of it is hashed together with
// what follows; where it cannot be read again, there is no going on.
func (h *held) passOn(want Want, off int64, cause error) (*passing, error) {
	h.cache.lost(h.digest, h.size, -1, cause)
	hash := h.digest.Algorithm().Hash()
	if _, err := io.Copy(hash, io.NewSectionReader(h.file, 0, off)); err != nil {
		return nil, cause
	}
	h.cache.Metrics.Fills.Bypassed(metrics.BypassDisk)
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
		for at < end && (n < 0 || sent < n) {
			m := min(chunk, end-at)
			if n >= 0 {
				m = min(m, n-sent)
			}
			m, err := copyChunk(w, r.file, m)
			sent, at = sent+m, at+m
			if err != nil {
				return sent, err
			}
		}
		if more {
			if err := w.FlushError(); err != nil {
				return sent, err
			}
		}
	}
	return sent, nil
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
// its reader. Everything the reader was given is under the hash that the
// stream goes on with; where that is not so, there is no going on.
func (r *reader) passOn(want Want, off int64, begun bool, cause error) (*passing, error) {
	f := r.fill
	if !begun {
		f.cache.Metrics.Fills.Bypassed(metrics.BypassDisk)
		return &passing{cache: f.cache, want: want, size: f.known()}, nil
	}
	select {
	case <-f.judged:
	default:
		if f.failed() == nil {
			return nil, cause // the fill is well, only this reader's file is not
		}
		<-f.judged
	}
	f.mu.Lock()
	size, verified, hashed := f.size, f.verified, f.hashed
	f.mu.Unlock()
	p := &passing{cache: f.cache, want: want, size: size}
	if !verified {
		ahead := hashed - off
		cloner, ok := f.hash.(hash.Cloner)
		if !ok || ahead < 0 || ahead > tail {
			return nil, cause
		}
		clone, err := cloner.Clone()
		if err != nil {
			return nil, err
		}
		p.hash, p.hashed, p.ahead = clone, hashed, make([]byte, ahead)
		if _, err := r.file.ReadAt(p.ahead, off); err != nil {
			return nil, err
		}
	}
	f.cache.Metrics.Fills.Bypassed(metrics.BypassDisk)
	return p, nil
}

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
