package cache

import (
	"context"
	"errors"
	"io"
)

// tail is how many bytes at the end of a blob nobody is given before the
// digest is right. It is what a client waits for after a slow last byte; less
// than it, no client mistakes for a whole layer.
const tail = 64 << 10

// Chunk is the most that is sent to a client in one go, in bytes, so that its
// write deadline can move with its progress.
const Chunk = 1 << 20

// Origin is where a blob's bytes come from.
type Origin uint8

// The origins.
const (
	Held    Origin = iota // a whole, verified file
	Filling               // a fill that this request began
	Joined                // a fill that another request began
	Passing               // the source, past the cache
)

// Sink is where bytes go: the answer to one client. FlushError sends what has
// been written before it waits for more.
type Sink interface {
	io.Writer
	FlushError() error
}

// ErrWrongContent says that the bytes do not hash to the digest. The reader
// was given all but the end of them.
var ErrWrongContent = errors.New("the content does not hash to its digest")

// ErrSource marks a failure of this room that is the source's.
var ErrSource = errors.New("the source failed")

// Blob is an open blob, for one reader.
type Blob struct {
	Size    int64 // negative when nobody knows before the end
	Origin  Origin
	Suspect bool // a beginning of it that was handed out lately was wrong: answer with the whole

	cache *Cache
	want  Want
	body  body
}

// body is one way to read a blob.
type body interface {
	// send writes n bytes from off to w and tells how many it wrote. n is
	// negative for all up to an end that is not known.
	send(ctx context.Context, w Sink, off, n int64) (int64, error)
	close()
}

// errUnreadable says that the file under a reader fails, and the source may
// give the rest.
var errUnreadable = errors.New("the file cannot be read")

// Send writes n bytes of the blob from off to w, all up to the end when n is
// negative. It does not return without error unless every byte was sent; one
// that includes the blob's last byte is not sent before the digest is right.
func (b *Blob) Send(ctx context.Context, w Sink, off, n int64) error {
	if n < 0 && b.Size >= 0 {
		n = b.Size - off
	}
	for start := off; ; {
		sent, err := b.body.send(ctx, w, off, n)
		if err == nil || !errors.Is(err, errUnreadable) || b.want.Source == nil {
			return err
		}
		off += sent
		if n >= 0 {
			n -= sent
		}
		if err := b.instead(ctx, start, off, err); err != nil {
			return err
		}
	}
}

// instead finds another way to the bytes from off on, after the file has
// failed under a reader that began at start. What it was given already came
// from that file: it is verified together with what follows, or was
// verified before, or the answer ends here.
func (b *Blob) instead(ctx context.Context, start, off int64, err error) error {
	var next body
	if r, ok := b.body.(*reader); ok {
		if next, err = r.passOn(b.want, start, off, err); err != nil {
			return err
		}
	} else if next, err = b.replace(ctx, off, off > start, err); err != nil {
		return err
	}
	b.body.close()
	b.body = next
	return nil
}

// replace finds elsewhere, from off on, the blob of a file that fails under its
// reader.
func (b *Blob) replace(ctx context.Context, off int64, begun bool, cause error) (body, error) {
	err := b.cache.unreadable(b.want.Digest, off, cause)
	if h, ok := b.body.(*held); ok && begun && !h.trusted {
		return h.passOn(b.want, off, cause)
	}
	again, err := b.cache.bring(ctx, b.want, err)
	if err != nil {
		return nil, err
	}
	return again.body, nil
}

// Close gives the blob back.
func (b *Blob) Close() { b.body.close() }
