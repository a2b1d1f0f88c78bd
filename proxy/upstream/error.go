package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"
)

// Kind sorts what can go wrong between hubcap and a registry.
type Kind uint8

// The kinds of failure.
const (
	Unreachable Kind = iota // no connection, a time-out, a broken answer
	ServerError             // 5xx, or a CDN that refuses what the registry sent us to
	RateLimited             // 429
	Denied                  // 401 or 403: nobody may, or this client may not
	NotFound                // 404 or 410
	Withdrawn               // 402, 412 or 451: it is there, and nobody gets it
	Refused                 // hubcap did not go where the registry pointed
	Invalid                 // an answer that breaks the protocol, or is not what its digest says
	Unasked                 // the registry fails and is left alone for a while, or hubcap is offline
)

var kindNames = [...]string{"unreachable", "server error", "rate limited", "denied", "not found", "withdrawn", "refused", "invalid answer", "unasked"}

func (k Kind) String() string { return kindNames[k] }

// Error is every failure of a registry. Its text is for the operator: it
// names the upstream and the request, and no credential, token or signed
// address.
type Error struct {
	Kind        Kind
	Upstream    string        // the host it is configured as
	Request     string        // what was asked: method and path
	Status      int           // of the HTTP answer, 0 when there was none
	Refusal     Refusal       // whose word a Denied, NotFound or Withdrawn is
	Code        string        // of the OCI error in the answer; empty when it has none
	Message     string        // what the answer says for people: one printable line without secrets, at most maxMessage characters
	RetryAfter  time.Duration // what a 429 or 503 asked for, or until hubcap asks again; 0 when that is not known
	Credentials bool          // the box's own were used
	Challenge   string        // what the registry asks a caller for (RFC 9110, 11.6.1); empty when he was not asked, or hubcap does not pass it on
	err         error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("upstream %s: %s: %s", e.Upstream, e.Request, e.Kind)
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.err != nil {
		text += ": " + redact(e.err.Error())
	}
	if e.Refusal == NotOCI {
		text += ": no OCI error"
	}
	for _, said := range []string{e.Code, e.Message} {
		if said != "" {
			text += ": " + said
		}
	}
	return text
}

func (e *Error) Unwrap() error { return e.err }

// patientFor is the longest wait after which a request still counts as one of
// this moment: a client that reads along stands it.
const patientFor = 30 * time.Second

// Temporary tells whether the same request may succeed in a moment, or after
// Wait.
func (e *Error) Temporary() bool {
	switch e.Kind {
	case Unreachable, ServerError:
		return true
	case RateLimited, Unasked:
		return e.RetryAfter > 0 && e.RetryAfter <= patientFor
	default:
		return false
	}
}

// Wait is how long the registry wants to be left alone; 0 when it does not say.
func (e *Error) Wait() time.Duration {
	if e.Kind == RateLimited || e.Kind == Unasked {
		return e.RetryAfter
	}
	return 0
}

// Unsatisfiable tells that there is nothing in the range that was asked for.
func (e *Error) Unsatisfiable() bool { return e.Status == http.StatusRequestedRangeNotSatisfiable }

// Failing reports whether the error is trouble of the registry, under which
// held content goes on being served, and no answer about the content. A
// refusal that is no OCI error is the word of somebody else, and a registry
// that refuses the token of its own token service is not in order.
func (e *Error) Failing() bool {
	switch e.Kind {
	case Withdrawn:
		return false
	case NotFound, Denied:
		return e.Refusal == NotOCI || e.Refusal == DespiteToken
	default:
		return true
	}
}

// query goes on to the end of the quotes that it stands in.
var query = regexp.MustCompile(`(?s)\?(?:\\.|[^"\\])*`)

// redact takes query strings out of a message: they hold signatures, account
// names and tokens.
func redact(s string) string { return query.ReplaceAllString(s, "?…") }

// failure makes an Error of what an HTTP client returned.
func (c *Client) failure(req *http.Request, err error) error {
	if cause := context.Cause(req.Context()); cause != nil && !errors.Is(cause, errStalled) {
		return cause
	}
	if one := new(Error); errors.As(err, &one) { // of who asked in this one's place
		return one
	}
	e := &Error{Kind: Unreachable, Upstream: c.label, Request: describe(req), Credentials: c.login != nil, err: err}
	var fromTokens *tokenRefusal
	var inURL *url.Error
	var later *postponed
	switch {
	case errors.As(err, &later):
		e.Kind, e.Status, e.RetryAfter, e.err = Unasked, later.status, later.wait, later
		if later.limited {
			e.Kind = RateLimited
		}
	case errors.Is(err, errOffline):
		e.Kind, e.err = Unasked, errOffline
	case errors.As(err, &fromTokens):
		e.Kind, e.Status, e.Code, e.Message = kindOf(fromTokens.status), fromTokens.status, fromTokens.code, fromTokens.message
		switch e.Kind {
		case NotFound, Withdrawn:
			e.Kind = ServerError // what is not there is the service, not the content
		case Denied:
			e.Refusal = ByTokenService
			if fromTokens.page {
				e.Refusal = NotOCI
			}
		}
		e.err = fromTokens
	case errors.Is(err, errNoLogin):
		e.Kind = Denied
	case errors.Is(err, errRefused):
		e.Kind = Refused
	case errors.Is(err, errNoBasic):
		e.Kind, e.Status, e.err = Denied, http.StatusUnauthorized, nil
	case errors.Is(err, errBadToken):
		e.Kind = Invalid
	}
	if errors.As(e.err, &inURL) {
		e.err = inURL.Err // without the address
	}
	return e
}

func (c *Client) invalid(req *http.Request, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Upstream: c.label, Request: describe(req), err: fmt.Errorf(format, args...)}
}

func describe(req *http.Request) string { return req.Method + " " + req.URL.Path }

func kindOf(status int) Kind {
	switch {
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return Denied
	case status == http.StatusNotFound || status == http.StatusGone:
		return NotFound
	// Harbor refuses with 412 what its project's policy bars; 402 and 451 say
	// themselves what they are (RFC 9110, 15.5.3; RFC 7725).
	case status == http.StatusPaymentRequired || status == http.StatusPreconditionFailed || status == http.StatusUnavailableForLegalReasons:
		return Withdrawn
	case status >= 500:
		return ServerError
	default:
		return Invalid
	}
}

// maxRetryAfter bounds what is believed of a Retry-After: the window of
// Docker Hub's pull limit. What speaks of no pull limit is bounded by
// maxSilence.
const maxRetryAfter = 6 * time.Hour

// A Retry-After of seconds that is above these is a time since 1970, in seconds
// or in milliseconds: no registry means a wait of thirty years, and Docker Hub
// has sent the first.
const (
	sinceEpochSeconds = 1e9
	sinceEpochMillis  = 1e12
)

// retryAfter reads Retry-After in both of its forms (RFC 9110, 10.2.3). A time
// in it is held against the answer's own Date, so that no clock has to be
// right; against now where there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	var wait time.Duration
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		switch {
		case n > sinceEpochMillis:
			wait = time.UnixMilli(n).Sub(now)
		case n > sinceEpochSeconds:
			wait = time.Unix(n, 0).Sub(now)
		case n > 0:
			wait = time.Duration(n) * time.Second
		}
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
