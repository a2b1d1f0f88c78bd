package cache

import (
	"context"
	"errors"
	"io"
)

// tail is how many bytes at the end of a blob no client gets before the digest is
// right. A blob without them is not mistaken for a whole one, and they are quickly
// sent after the last byte has come.
const tail = 64 << 10

// Chunk is the largest write to a client in bytes, so that its write deadline can
// move with its progress.
const Chunk = 1 << 20

// Origin is where a blob's bytes come from.
type Origin uint8

// The origins.
const (
	Held     Origin = iota // a stored file
	Filling                // a fill that this request began
	Joined                 // a fill that another request began
	Uncached               // the source; nothing is stored
)

// Sink is the response to one client. FlushError sends what has been written.
type Sink interface {
	io.Writer
	FlushError() error
}

// ErrWrongContent says that the bytes do not hash to the digest. The client did
// not get the last bytes.
var ErrWrongContent = errors.New("the content does not hash to its digest")

// ErrSource marks an error of this package that is the fault of the source.
var ErrSource = errors.New("the source failed")

// Blob is an open blob, for one reader.
type Blob struct {
	Size   int64 // bytes; negative if unknown before the end
	Origin Origin

	// RecentlyWrong says that a wrong beginning of it was sent lately, so that
	// a range is to be answered with the whole blob.
	RecentlyWrong bool

	cache *Cache
	want  Want
	body  body
}

// body is one way to read a blob.
type body interface {
	// send writes n bytes from off to w and returns how many it wrote. n is
	// negative for all bytes up to an unknown end.
	send(ctx context.Context, w Sink, off, n int64) (int64, error)
	close()
}

// errUnreadable says that the file under a reader fails. The source may give the
// rest.
var errUnreadable = errors.New("the file cannot be read")

// Send writes n bytes of the blob from off to w, all up to the end if n is
// negative. It returns nil only if every byte was sent. The blob's last bytes are
// not sent before the digest is right.
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
		if err := b.switchBody(ctx, start, off, err); err != nil {
			return err
		}
	}
}

// switchBody finds another way to the bytes from off on, after the file has
// failed under a reader that began at start. What the client was given of that
// file is verified together with what follows, or was verified before, or the
// response ends here.
func (b *Blob) switchBody(ctx context.Context, start, off int64, err error) error {
	var next body
	if r, ok := b.body.(*reader); ok {
		if next, err = r.continueUncached(b.want, start, off, err); err != nil {
			return err
		}
	} else if next, err = b.replace(ctx, off, off > start, err); err != nil {
		return err
	}
	b.body.close()
	b.body = next
	return nil
}

// replace is switchBody for a stored file.
func (b *Blob) replace(ctx context.Context, off int64, begun bool, cause error) (body, error) {
	h := b.body.(*held)
	err := b.cache.unreadable(b.want.Digest, off, cause)
	if begun && !h.trusted {
		return h.continueUncached(b.want, off, cause)
	}
	again, err := b.cache.openMissing(ctx, b.want, err, h.replaced)
	if err != nil {
		return nil, err
	}
	return again.body, nil
}

// Close releases the blob. It is called once.
func (b *Blob) Close() { b.body.close() }
