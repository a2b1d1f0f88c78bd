package cache

import (
	"context"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"

	"hubcap/metrics"
)

// asked is closed: what passes has its reader.
var asked = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// passing reads a blob from its source without keeping it: too large, no
// room, a failing disk. What reaches the last byte is hashed from the first
// one on, and its tail held back, as everywhere.
type passing struct {
	cache  *Cache
	want   Want
	size   int64     // negative when nobody knows
	spare  *Stream   // an open answer of the source from 0, or nil
	hash   hash.Hash // of the bytes before hashed; nil to begin at 0
	hashed int64
	ahead  []byte // the last bytes under the hash, which the reader was not given yet
	prior  *prior // what the reader was given of a file that has failed; nil when that is under the hash
}

// prior is what a reader was given of a file that may have lost some of it. It
// has to be what the source gives, before the reader is given more.
type prior struct {
	span
	sum  []byte
	hash hash.Hash // of what the source has given of the span
}

// errDiffers says that a reader was given, of a failing disk, what the source
// does not give.
var errDiffers = permanent{fmt.Errorf("%w: the disk has lost what was written to it, or the source has changed", ErrWrongContent)}

// compare takes bytes of the source, which stand at off. A nil prior is always
// right.
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

// passing is a blob of size bytes, negative when nobody knows, that is
// streamed through. spare is an open answer of its source from 0, or nil.
func (c *Cache) passing(want Want, size int64, spare *Stream, why metrics.Bypass) *Blob {
	c.o.Metrics.Fills.Bypassed(why)
	return &Blob{
		Size: size, Origin: Passing, Suspect: c.suspects.has(want.Digest), cache: c, want: want,
		body: &passing{cache: c, want: want, size: size, spare: spare},
	}
}

func (p *passing) send(ctx context.Context, w Sink, off, n int64) (int64, error) {
	if p.size >= 0 && n >= 0 && off+n < p.size {
		return p.sendPart(ctx, w, off, n)
	}
	return p.sendToEnd(ctx, w, off, n)
}

// sendPart passes a range on that does not reach the end: its client has to
// verify the whole itself.
func (p *passing) sendPart(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	from := p.from(ctx, off, off+n)
	defer from.Close()
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	for {
		m, err := from.Read(buf[:])
		if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is a failure
			return sent, nil
		}
		if err == nil {
			err = p.cache.pacer.wait(ctx, m, asked)
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

// sendToEnd reads from where the hash stands to the end, and sends what lies
// at off and behind it; the last bytes only when the digest is right.
func (p *passing) sendToEnd(ctx context.Context, w Sink, off, n int64) (sent int64, err error) {
	if p.hash == nil {
		p.hash, p.hashed = p.want.Digest.Algorithm().Hash(), 0
	}
	from := p.from(ctx, p.hashed, p.size)
	defer from.Close()
	window := newWindow(w, p.hashed-int64(len(p.ahead)), off, n)
	window.add(copy(window.space(), p.ahead))
	for {
		m, err := from.Read(window.space())
		if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is a failure
			break
		}
		if err == nil {
			err = p.cache.pacer.wait(ctx, m, asked)
		}
		if err != nil {
			return window.sent, err
		}
		added := window.add(m)
		if err := p.prior.compare(added, p.hashed); err != nil {
			return window.sent, err
		}
		p.hash.Write(added)
		p.hashed += int64(m)
		if err := window.sendBut(tail); err != nil || window.sent == n {
			return window.sent, err // a part that ended before the end, which was not known
		}
	}
	if !hashesTo(p.hash, p.want.Digest) {
		p.cache.suspects.add(p.want.Digest)
		return window.sent, ErrWrongContent
	}
	p.hash, p.ahead, p.prior = nil, nil, nil // the next call begins anew
	err = window.sendBut(0)
	return window.sent, err
}

// from reads the source between off and end.
func (p *passing) from(ctx context.Context, off, end int64) *resumer {
	r := &resumer{
		ctx: ctx, source: p.want.Source, off: off, end: end, size: p.size,
		resumed: p.cache.o.Metrics.Fills.Resumed,
	}
	if spare := p.spare; spare != nil && spare.Off == off {
		// It was opened for nobody in particular; now it ends with its reader.
		if c, ok := spare.Body.(closer); ok {
			context.AfterFunc(ctx, c.end)
		}
		r.stream, p.spare = spare, nil
	}
	return r
}

func (p *passing) close() {
	if p.spare != nil {
		p.spare.Body.Close()
		p.spare = nil
	}
}

// window holds the last bytes of a stream back from a client.
type window struct {
	to   Sink
	buf  []byte
	off  int64 // in the blob, of buf[0]
	want span  // the bytes of the blob that the client wants
	sent int64
}

func newWindow(to Sink, off, want, n int64) *window {
	w := &window{to: to, buf: make([]byte, 0, tail+buffer), off: off, want: span{want, math.MaxInt64}}
	if n >= 0 {
		w.want.end = want + n
	}
	return w
}

// space is where the next bytes go.
func (w *window) space() []byte { return w.buf[len(w.buf):cap(w.buf)] }

// add takes n bytes of the space in, and returns them.
func (w *window) add(n int) []byte {
	w.buf = w.buf[:len(w.buf)+n]
	return w.buf[len(w.buf)-n:]
}

// sendBut sends everything but the last keep bytes.
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
