package fill

import (
	"context"
	"errors"
	"io"
)

// Tail is how many bytes at the end of a blob no client gets before the digest is
// right. A blob without them is not mistaken for a whole one, and they are quickly
// sent after the last byte has come.
const Tail = 64 << 10

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

// ErrSource marks an error of this package that is the fault of the source.
var ErrSource = errors.New("the source failed")

// Opened is a blob that a fill, or a source alone, gives to one reader.
type Opened struct {
	Body
	Size   int64 // bytes; negative if unknown before the end
	Origin Origin
	Place  string // Place.Kind of what gave the first bytes of a fill; empty for its registry
}

// Body is one way to read a blob.
type Body interface {
	// Send writes n bytes from off to w and returns how many it wrote. n is
	// negative for all bytes up to an unknown end.
	Send(ctx context.Context, w Sink, off, n int64) (int64, error)
	Close()
}
