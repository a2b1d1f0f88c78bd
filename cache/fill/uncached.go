package fill

import (
	"context"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
)

// requested is closed: an uncached stream has its reader.
var requested = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// uncached reads a blob from its source without storing it: too large, no room, a
// failing disk. A span that reaches the last byte is hashed from the first byte
// on, and its tail waits for the digest.
type uncached struct {
	fills  *Fills
	want   Want
	source *chooser
	size   int64     // negative if unknown
	spare  *Stream   // an open answer of the source from 0, or nil
	hash   hash.Hash // of the bytes before hashed; nil to start at 0
	hashed int64
	ahead  []byte // the last bytes that are in the hash and that the client was not given
	prior  *prior // what the client was given of a file that has failed; nil if that is in the hash
}

// prior is what a client was given of a file that may have lost bytes. The source
// must give the same before the client is given more.
type prior struct {
	span
	sum  []byte
	hash hash.Hash // of what the source has given of the span
}

// errDiffers says that a client was given something else from a failing disk than
// the source gives.
var errDiffers = permanent{fmt.Errorf("%w: the disk has lost what was written to it, or the source has changed", ErrWrongContent)}

// compare compares bytes of the source, which begin at off in the blob. A nil
// prior equals everything.
func (p *prior) compare(bytes []byte, off int64) error {
	if p == nil {
		return nil
	}
	from, to := max(p.off-off, 0), min(p.end-off, int64(len(bytes)))
	if from >= to {
		return nil
	}
	p.hash.Write(bytes[from:to])
	if off+to == p.end && !slices.Equal(p.hash.Sum(nil), p.sum) {
		return errDiffers
	}
	return nil
}

// Uncached returns a blob of size bytes, negative if unknown, that is read from its
// source and not stored.
func (s *Fills) Uncached(want Want, size int64, why Reason) Opened {
	return s.newUncached(want, size, nil, why)
}

// newUncached is Uncached with spare, an open answer of the source from 0, or nil.
func (s *Fills) newUncached(want Want, size int64, spare *Stream, why Reason) Opened {
	s.o.Metrics.Fills.Uncached(why.String())
	return Opened{&uncached{fills: s, want: want, source: newChooser(s, want, false), size: size, spare: spare}, size, Uncached, ""}
}

// OpenUncached opens a blob at its source, without a fill because of err. The source
// says how long it is.
func (s *Fills) OpenUncached(ctx context.Context, want Want, err error) (Opened, error) {
	s.o.Log.Warn("a blob is streamed and not stored", "digest", want.Digest, "reason", ReasonDisk.String(), "err", err)
	stream, err := newChooser(s, want, false).Open(ctx, 0, -1)
	if err != nil {
		return Opened{}, err
	}
	s.compareSizes(want, stream)
	return s.newUncached(want, stream.Size, stream, ReasonDisk), nil
}

// Continue returns a stream of a blob of size bytes whose first bytes are known:
// they are hashed of them.
func (s *Fills) Continue(want Want, size int64, sum hash.Hash, hashed int64) Body {
	s.o.Metrics.Fills.Uncached(ReasonDisk.String())
	return &uncached{fills: s, want: want, source: newChooser(s, want, false), size: size, hash: sum, hashed: hashed}
}

func (u *uncached) Send(ctx context.Context, w Sink, off, n int64) (int64, error) {
	if u.size >= 0 && n >= 0 && off+n < u.size {
		return u.sendPart(ctx, w, off, n)
	}
	return u.sendToEnd(ctx, w, off, n)
}

// sendPart sends a range that does not reach the end. It is not verified: its
// client has to verify the whole.
func (u *uncached) sendPart(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	from := u.from(ctx, off, off+n)
	defer from.Close()
	buf := Buffers.Get().(*[BufferSize]byte)
	defer Buffers.Put(buf)
	for {
		m, err := from.Read(buf[:])
		if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is a failure
			return sent, nil
		}
		if err == nil && !from.near() {
			err = u.fills.pacer.wait(ctx, m, requested)
		}
		if err != nil {
			return sent, err
		}
		m, err = w.Write(buf[:m])
		sent += int64(m)
		if err != nil {
			return sent, err
		}
	}
}

// sendToEnd reads from the end of the hashed bytes to the end of the blob, and
// sends n bytes from off; the last bytes only if the digest is right.
func (u *uncached) sendToEnd(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if u.hash == nil {
		u.hash, u.hashed = u.want.Digest.Algorithm().Hash(), 0
	}
	from := u.from(ctx, u.hashed, u.size)
	defer from.Close()
	window := newWindow(w, u.hashed-int64(len(u.ahead)), off, n)
	window.add(copy(window.space(), u.ahead))
	for {
		m, err := from.Read(window.space())
		if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is a failure
			break
		}
		if err == nil && !from.near() {
			err = u.fills.pacer.wait(ctx, m, requested)
		}
		if err != nil {
			return window.sent, err
		}
		added := window.add(m)
		if err := u.prior.compare(added, u.hashed); err != nil {
			return window.sent, err
		}
		u.hash.Write(added)
		u.hashed += int64(m)
		if err := window.sendBut(Tail); err != nil || window.sent == n {
			return window.sent, err // the span ended before the end, which was unknown
		}
	}
	if !HashesTo(u.hash, u.want.Digest) {
		u.fills.NoteWrong(u.want.Digest)
		u.source.wrong()
		return window.sent, ErrWrongContent
	}
	u.hash, u.ahead, u.prior = nil, nil, nil // the next call starts again
	err = window.sendBut(0)
	return window.sent, err
}

// from returns a reader of the source from off to end.
func (u *uncached) from(ctx context.Context, off, end int64) *resumer {
	r := &resumer{
		ctx: ctx, source: u.source, off: off, end: end, size: u.size,
		resumed: u.fills.o.Metrics.Fills.Resumed,
	}
	if spare := u.spare; spare != nil && spare.Off == off {
		// It was opened for no particular reader. Now it ends with this one.
		if c, ok := spare.Body.(closer); ok {
			context.AfterFunc(ctx, c.end)
		}
		r.stream, u.spare = spare, nil
	}
	return r
}

func (u *uncached) Close() {
	if u.spare != nil {
		u.spare.Body.Close()
		u.spare = nil
	}
}

// window withholds the last bytes of a stream from a client.
type window struct {
	to   Sink
	buf  []byte
	off  int64 // in the blob, of buf[0]
	want span  // the bytes of the blob that the client wants
	sent int64
}

func newWindow(to Sink, off, want, n int64) *window {
	w := &window{to: to, buf: make([]byte, 0, Tail+BufferSize), off: off, want: span{want, math.MaxInt64}}
	if n >= 0 {
		w.want.end = want + n
	}
	return w
}

// space returns the room for the next bytes.
func (w *window) space() []byte { return w.buf[len(w.buf):cap(w.buf)] }

// add adds n bytes that were written to space, and returns them.
func (w *window) add(n int) []byte {
	w.buf = w.buf[:len(w.buf)+n]
	return w.buf[len(w.buf)-n:]
}

// sendBut sends all but the last keep bytes.
func (w *window) sendBut(keep int) error {
	n := len(w.buf) - keep
	if n <= 0 {
		return nil
	}
	from := max(w.want.off-w.off, 0)
	to := min(w.want.end-w.off, int64(n))
	if from < to {
		m, err := w.to.Write(w.buf[from:to])
		w.sent += int64(m)
		if err != nil {
			return err
		}
		if err := w.to.FlushError(); err != nil {
			return err
		}
	}
	w.off += int64(n)
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
	return nil
}
