package fakehub

import (
	"net/http"
	"sync/atomic"
	"time"
)

// Fault is what goes wrong with one answer. Its parts combine where that makes
// sense. Offsets are absolute offsets in the blob (or manifest, or token
// answer), also when a Range is requested; an answer that does not reach or
// begins after an offset is not affected by it. Use At for offsets and
// Request.Offset to count from the beginning of the Range.
type Fault struct {
	// Delay passes before the request is read, on top of Options.Latency.
	Delay time.Duration
	// HeaderDelay passes between the status line and the rest of the headers
	// (on HTTP/2: before the headers).
	HeaderDelay time.Duration
	// BodyDelay passes between the headers and the body.
	BodyDelay time.Duration
	// Rate sends the body with so many bytes a second, on top of the caps.
	Rate int64

	// Status, when not 0, answers with Status, Header and Body instead.
	// Otherwise the values of Header replace the real ones (nil removes one)
	// and a Body that is not nil replaces the real one.
	Status int
	Header http.Header
	Body   []byte
	// HTML answers 200 with a captive portal's page.
	HTML bool
	// ForeignRealm answers 401 with a Bearer challenge to this realm.
	ForeignRealm string
	// Redirect answers 307 with this Location, verbatim.
	Redirect string
	// Hops leads a redirect, the real one or Redirect, over so many further
	// redirects on the CDN's host.
	Hops int
	// CloseBeforeHeaders resets the connection without an answer. Many clients,
	// Go's among them, try at once again when it was a connection they had
	// kept, so Once may go unnoticed.
	CloseBeforeHeaders bool

	// StallAt sends the body up to the offset, then nothing until the client
	// leaves, the hub closes or Resume is closed.
	StallAt *int64
	// Resume, when it is closed, lets a body that stalls go on.
	Resume <-chan struct{}
	// CutAt sends the body up to the offset, then closes the connection.
	CutAt *int64
	// CorruptAt flips a bit of the byte at the offset.
	CorruptAt *int64
	// Truncate answers as if the content had only so many bytes.
	Truncate *int64
	// Endless sends the body without a length, and zeros after it without end.
	Endless bool

	// ExtraLength is added to the declared Content-Length; the body stays and
	// the connection is closed after it.
	ExtraLength int64
	// WrongLength is the Content-Length, verbatim; as ExtraLength otherwise.
	// Both are exact on HTTP/1.1 only.
	WrongLength string
	// NoLength declares no length: chunked on HTTP/1.1.
	NoLength bool
	// UntilClose declares no length and ends the body by closing (HTTP/1.1).
	UntilClose bool

	// IgnoreRange answers a Range with 200 and the whole body.
	IgnoreRange bool
	// WrongContentRange is the Content-Range of a 206, verbatim.
	WrongContentRange string
	// DropDigestHeader leaves Docker-Content-Digest out.
	DropDigestHeader bool
	// WrongDigestHeader is the Docker-Content-Digest, verbatim.
	WrongDigestHeader string
	// DropContentType leaves Content-Type out.
	DropContentType bool
	// ExpiresIn is the expires_in of a token answer; the token's real life
	// stays Options.TokenTTL.
	ExpiresIn *int64
}

// At is an offset for a Fault.
func At(offset int64) *int64 { return &offset }

// Script returns the fault of a request; nil for none. It is called from many
// goroutines at once.
type Script func(*Request) *Fault

// Script sets the script, nil for none. Requests under way keep their faults.
func (h *Hub) Script(s Script) { h.script.Store(&s) }

// consult returns the fault of a request, and never nil.
func (h *Hub) consult(r Request) *Fault {
	if s := h.script.Load(); s != nil && *s != nil {
		if f := (*s)(&r); f != nil {
			return f
		}
	}
	return &Fault{}
}

// Always applies the fault to every request that passes all filters.
func Always(f *Fault, filters ...Filter) Script {
	pass := All(filters...)
	return func(r *Request) *Fault {
		if pass(r) {
			return f
		}
		return nil
	}
}

// between applies the fault to the matches first to last, counted from 1.
func between(first, last int64, f *Fault, filters []Filter) Script {
	var n atomic.Int64
	pass := All(filters...)
	return func(r *Request) *Fault {
		if !pass(r) {
			return nil
		}
		if i := n.Add(1); i < first || i > last {
			return nil
		}
		return f
	}
}

// Once applies the fault to the first request that passes all filters.
func Once(f *Fault, filters ...Filter) Script { return between(1, 1, f, filters) }

// Times applies the fault to the first n requests that pass all filters.
func Times(n int, f *Fault, filters ...Filter) Script { return between(1, int64(n), f, filters) }

// OnNth applies the fault to the n-th request, from 1, that passes all filters.
func OnNth(n int, f *Fault, filters ...Filter) Script {
	return between(int64(n), int64(n), f, filters)
}

// First applies the fault of the first script that has one.
func First(scripts ...Script) Script {
	return func(r *Request) *Fault {
		for _, s := range scripts {
			if f := s(r); f != nil {
				return f
			}
		}
		return nil
	}
}
