package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Source is where the bytes of one blob come from: a registry, another box, an
// object store. Nothing that it says is believed before the digest is right.
//
// Sources are compared with ==, so the type must be comparable. Two that are
// equal must succeed and fail alike: a request whose fill fails with another
// request's Source tries its own.
type Source interface {
	// Open returns the blob's bytes from the offset off: n of them, or all
	// the rest if n is negative. A source that does not support ranges begins
	// at 0 instead (Stream.Off).
	//
	// ctx bounds Open and the reading of Stream.Body: when it ends, a Read
	// fails soon. Open and Body must have time-outs of their own for a silent
	// source, whose errors have a method Timeout() bool that returns true.
	//
	// Open fails with a SourceError, or with any other error, which counts as
	// temporary. If Repeats(ctx), the caller asks again after a temporary
	// error, a few times, and Open must not do so itself.
	Open(ctx context.Context, off, n int64) (*Stream, error)
}

// SourceError is what an error of Source.Open or Stream.Body, or one that it
// wraps, can tell the caller.
type SourceError interface {
	error
	// Temporary reports whether the same question may succeed in a moment, or
	// after Wait.
	Temporary() bool
	// Wait returns for how long the source is not to be asked, 0 if it does
	// not say.
	Wait() time.Duration
	// Unsatisfiable reports whether the blob has no byte at the offset.
	Unsatisfiable() bool
}

// Stream is an answer of a Source. Its receiver closes Body.
type Stream struct {
	Body io.ReadCloser
	Off  int64 // where in the blob Body begins
	End  int64 // where it ends, exclusive; not above Off if the source does not say
	Size int64 // bytes of the whole blob; negative if the source does not say
	Part bool  // the source has answered a range, be it all of the blob

	// Place is what gives it, nil for the registry. A Source sets it where it has taken
	// the bytes from elsewhere because the registry fails.
	Place *Place

	release func() // gives back its slot; called by Body.Close at the latest
}

// part reports whether the answer to a blob of size bytes says that its source supports
// ranges.
func (s *Stream) part(size int64) bool {
	return size >= 0 && (s.Part || s.Off > 0 || s.End > s.Off && s.End < size)
}

type repeatsKey struct{}

// Repeats reports whether a failed Open under ctx is tried again by its caller.
func Repeats(ctx context.Context) bool { return ctx.Value(repeatsKey{}) != nil }

// maxBreaks is how often in a row a transfer may break without a byte between,
// and maxSilences how often of these by a time-out: a client waits for a byte for
// at most two time-outs.
const (
	maxBreaks   = 2
	maxSilences = 1
)

// firstBackoff is the pause after the first break, and each further one is
// backoffGrowth times as long: a host that restarts is back within seconds.
const (
	firstBackoff  = 200 * time.Millisecond
	backoffGrowth = 8
)

// errChanged says that a source gives another length than it gave before.
var errChanged = fmt.Errorf("%w: the blob's length changed during the transfer", ErrSource)

// resumer reads one span of a blob from a Source, and continues after a break. It
// is for one goroutine.
type resumer struct {
	ctx     context.Context
	source  Source
	off     int64 // of the next byte
	end     int64 // of the span; negative while the size is unknown
	size    int64 // of the blob; negative while unknown
	stream  *Stream
	breaks  int    // in a row, without a byte between; all of them if restarts
	silent  int    // of these by a time-out
	resumed func() // called each time a transfer is continued

	restarts bool // the source does not support ranges: each transfer begins at 0
}

// Read reads at r.off. io.EOF means that the span is complete, or, while the size
// is unknown, that the source ended the blob regularly.
func (r *resumer) Read(p []byte) (int, error) {
	for {
		if r.end >= 0 {
			if r.off >= r.end {
				return 0, io.EOF
			}
			p = p[:min(int64(len(p)), r.end-r.off)]
		}
		if err := r.ensure(); err != nil {
			return 0, err
		}
		n, err := r.stream.Body.Read(p)
		if n > 0 {
			r.off += int64(n)
			if !r.restarts {
				r.breaks, r.silent = 0, 0
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if err == io.EOF && r.end < 0 {
			return 0, io.EOF
		}
		if err == io.EOF && r.off == r.stream.End { // end has been raised since it was opened
			r.Close()
			continue
		}
		if err := r.broke(err); err != nil {
			return 0, err
		}
	}
}

// ensure opens the source at r.off unless it is open.
func (r *resumer) ensure() error {
	for r.stream == nil {
		n := int64(-1)
		if r.end >= 0 && r.end != r.size {
			n = r.end - r.off
		}
		stream, err := r.source.Open(context.WithValue(r.ctx, repeatsKey{}, true), r.off, n)
		if err == nil {
			if r.breaks > 0 {
				r.resumed()
			}
			err = r.take(stream)
		}
		if err == nil {
			continue
		}
		if err := r.broke(err); err != nil {
			return err
		}
	}
	return nil
}

// take continues with stream, and drops bytes before r.off.
func (r *resumer) take(stream *Stream) error {
	r.stream = stream
	if stream.Size >= 0 && r.size >= 0 && stream.Size != r.size {
		return permanent{errChanged}
	}
	if stream.Off > r.off {
		return permanent{fmt.Errorf("%w: the answer begins at %d and not at %d", ErrSource, stream.Off, r.off)}
	}
	if stream.Off < r.off {
		r.restarts = true
		_, err := io.CopyN(io.Discard, stream.Body, r.off-stream.Off)
		return err
	}
	return nil
}

// broke closes the transfer. It returns nil after a pause if there is to be
// another one, else the error.
//
// A place that broke is not asked again soon, so that another one is asked at once.
func (r *resumer) broke(err error) error {
	near := r.near()
	r.Close()
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if near {
		return nil
	}
	if err == io.EOF { //nolint:errorlint // the end itself, too early
		err = fmt.Errorf("%w: %w", ErrSource, io.ErrUnexpectedEOF)
	}
	told, ok := errors.AsType[SourceError](err)
	if ok && !told.Temporary() {
		return err
	}
	if isTimeout(err) {
		r.silent++
	}
	if r.breaks++; r.breaks > maxBreaks || r.silent > maxSilences {
		return err
	}
	pause := firstBackoff
	for range r.breaks - 1 {
		pause *= backoffGrowth
	}
	if ok {
		pause = max(pause, told.Wait())
	}
	pause += time.Duration(rand.Int64N(int64(pause)/2 + 1)) //nolint:gosec // jitter, not a secret
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(pause):
		return nil
	}
}

// near reports whether the transfer under way is from a Place.
func (r *resumer) near() bool { return r.stream != nil && r.stream.Place != nil }

// Close ends the transfer under way.
func (r *resumer) Close() {
	if r.stream != nil {
		r.stream.Body.Close()
		r.stream = nil
	}
}

// unsatisfiable reports whether the blob has no byte at the offset that was
// requested.
func unsatisfiable(err error) bool {
	told, ok := errors.AsType[SourceError](err)
	return ok && told.Unsatisfiable()
}

// isTimeout reports whether err is a time-out of a silent source.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// permanent is an error of this package that asking again does not help.
type permanent struct{ error }

// permanent is a SourceError.
func (permanent) Temporary() bool     { return false }
func (permanent) Wait() time.Duration { return 0 }
func (permanent) Unsatisfiable() bool { return false }

func (p permanent) Unwrap() error { return p.error }
