package cache

import (
	"context"
	"errors"

	"hubcap/cache/fill"
)

// What fills are told and give; package fill describes each.
type (
	// Want is what is to be opened.
	Want = fill.Want
	// Source is where the bytes of a blob come from.
	Source = fill.Source
	// SourceError is a failure of a Source.
	SourceError = fill.SourceError
	// Stream is an answer of a Source.
	Stream = fill.Stream
	// Sink is what a blob is written to.
	Sink = fill.Sink
	// Origin is how a blob was had.
	Origin = fill.Origin
	// FillStatus is a running fill, for its operator.
	FillStatus = fill.Status
	// Nearer is the places before the Source.
	Nearer = fill.Nearer
	// Place is one of them.
	Place = fill.Place
)

// The constants and errors of package fill that users of the cache meet.
const (
	Chunk = fill.Chunk

	Held     = fill.Held
	Filling  = fill.Filling
	Joined   = fill.Joined
	Uncached = fill.Uncached
)

// See package fill.
var (
	ErrWrongContent = fill.ErrWrongContent
	ErrSource       = fill.ErrSource
	ErrRestricted   = fill.ErrRestricted
	ErrNotStored    = fill.ErrNotStored
	ErrFed          = fill.ErrFed
)

// Repeats is fill.Repeats.
func Repeats(ctx context.Context) bool { return fill.Repeats(ctx) }

// Blob is an open blob, for one reader.
type Blob struct {
	Size   int64 // bytes; negative if unknown before the end
	Origin Origin
	Place  string // kind of the Place that its fill got the first bytes from; empty for the registry, and for what no fill feeds

	// RecentlyWrong says that a wrong beginning of it was sent lately, so that
	// a range is to be answered with the whole blob.
	RecentlyWrong bool

	cache *Cache
	want  Want
	body  fill.Body
}

// Send writes n bytes of the blob from off to w, all up to the end if n is
// negative. It returns nil only if every byte was sent. The blob's last bytes are
// not sent before the digest is right.
func (b *Blob) Send(ctx context.Context, w Sink, off, n int64) error {
	if n < 0 && b.Size >= 0 {
		n = b.Size - off
	}
	for start := off; ; {
		sent, err := b.body.Send(ctx, w, off, n)
		if err == nil || !errors.Is(err, fill.ErrUnreadable) || b.want.Source == nil {
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
	var next fill.Body
	if r, ok := b.body.(*fill.Reader); ok {
		if next, err = r.ContinueUncached(b.want, start, off, err); err != nil {
			return err
		}
	} else if next, err = b.replace(ctx, off, off > start, err); err != nil {
		return err
	}
	b.body.Close()
	b.body = next
	return nil
}

// replace is switchBody for a stored file.
func (b *Blob) replace(ctx context.Context, off int64, begun bool, cause error) (fill.Body, error) {
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
func (b *Blob) Close() { b.body.Close() }
