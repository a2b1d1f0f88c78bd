package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Source is where the bytes of one blob come from, by offset and length: a
// registry, another box, an object store. Nothing it says is believed before
// the digest is right.
type Source interface {
	// Open returns the blob's bytes from the offset off: n of them, or all
	// the rest when n is negative. A source that knows no ranges begins at 0
	// instead; Stream.Off tells.
	//
	// An error with a method Temporary() bool that answers false is final.
	// Where Repeats(ctx), the bytes are asked for again after any other one,
	// up to a limit, and not before the time that its method Wait()
	// time.Duration gives; so it is not for Open to try again.
	Open(ctx context.Context, off, n int64) (*Stream, error)
}

// Stream is an answer of a Source.
type Stream struct {
	Body io.ReadCloser
	Off  int64 // where in the blob Body begins
	End  int64 // where it ends, exclusive; not above Off when the source does not say
	Size int64 // bytes of the whole blob; negative when the source does not say
}

// part tells whether the answer is less than the whole of size bytes, so that
// its source knows ranges.
func (s *Stream) part(size int64) bool {
	return size >= 0 && (s.Off > 0 || s.End > s.Off && s.End < size)
}

type repeatsKey struct{}

// Repeats reports whether a failed Open under ctx is tried again by its caller.
func Repeats(ctx context.Context) bool { return ctx.Value(repeatsKey{}) != nil }

// maxBreaks is how often in a row a source may break without having given a
// byte, and maxSilences how often by a time-out: what a client waits for
// without a byte is one time-out and one more.
const (
	maxBreaks   = 2
	maxSilences = 1
)

// firstBackoff is waited after the first break, and backoffGrowth times as long
// after each more: a host that is restarted is back within seconds.
const (
	firstBackoff  = 200 * time.Millisecond
	backoffGrowth = 8
)

// errChanged says that a source gives another length than it gave before.
var errChanged = fmt.Errorf("%w: it changed the blob's length in mid-transfer", ErrSource)

// resumer reads one span of a blob from a Source, through as many broken
// connections as it takes. It is one reader's.
type resumer struct {
	ctx     context.Context
	source  Source
	off     int64 // of the next byte
	end     int64 // of the span; negative until the size is known
	size    int64 // of the blob; negative while it is not known
	stream  *Stream
	breaks  int    // in a row, without a byte between them; all, where each begins at 0 again
	silent  int    // of them by a time-out
	resumed func() // called at each continuation after a break

	restarts bool // the source knows no ranges: bytes that came before come again
}

// Read reads on at r.off. io.EOF means that the span is complete, or, while
// the size is not known, that the source ended the blob in good order.
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
		if err == io.EOF && r.off == r.stream.End { // all that was asked for; more is wanted now
			r.Close()
			continue
		}
		if err := r.broke(err); err != nil {
			return 0, err
		}
	}
}

// ensure opens the source at r.off where it is not open.
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

// take goes on with stream. Bytes before r.off, which a source that knows no
// ranges sends again, are dropped.
func (r *resumer) take(stream *Stream) error {
	r.stream = stream
	if stream.Size >= 0 && r.size >= 0 && stream.Size != r.size {
		return permanent{errChanged}
	}
	if stream.Off > r.off {
		return permanent{fmt.Errorf("%w: it begins at %d and not at %d", ErrSource, stream.Off, r.off)}
	}
	if stream.Off < r.off {
		r.restarts = true
		_, err := io.CopyN(io.Discard, stream.Body, r.off-stream.Off)
		return err
	}
	return nil
}

// broke decides whether to go on after err, and waits before the next try.
func (r *resumer) broke(err error) error {
	r.Close()
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if err == io.EOF { //nolint:errorlint // the end itself, too early
		err = fmt.Errorf("%w: %w", ErrSource, io.ErrUnexpectedEOF)
	}
	if final(err) {
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
	pause = max(pause, waitFor(err))
	pause += time.Duration(rand.Int64N(int64(pause)/2 + 1)) //nolint:gosec // jitter, not a secret
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(pause):
		return nil
	}
}

// Close ends the transfer under way.
func (r *resumer) Close() {
	if r.stream != nil {
		r.stream.Body.Close()
		r.stream = nil
	}
}

// final tells whether asking again is of no use.
func final(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && !t.Temporary()
}

// isTimeout reports whether err is that of a source that gave no sign of life.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// waitFor is how long a source wants to be left alone.
func waitFor(err error) time.Duration {
	var w interface{ Wait() time.Duration }
	if errors.As(err, &w) {
		return w.Wait()
	}
	return 0
}

// unsatisfiable tells that a source has nothing from the offset on that it
// was asked for.
func unsatisfiable(err error) bool {
	var u interface{ Unsatisfiable() bool }
	return errors.As(err, &u) && u.Unsatisfiable()
}

// permanent marks an error of this room as final.
type permanent struct{ error }

func (permanent) Temporary() bool { return false }
func (p permanent) Unwrap() error { return p.error }
