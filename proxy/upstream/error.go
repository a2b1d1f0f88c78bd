package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"hubcap/proxy/advice"
)

// Kind is what went wrong between hubcap and a registry.
type Kind uint8

// The kinds.
const (
	Unreachable Kind = iota // no connection, a time-out, a broken answer
	ServerError             // 5xx, or a redirect target that refuses
	RateLimited             // 429
	Denied                  // 401 or 403
	NotFound                // 404 or 410
	Withdrawn               // 402, 412 or 451: it exists and is not given out
	Refused                 // hubcap did not follow where the registry led
	Invalid                 // an answer that violates the protocol, or does not match its digest
	Unasked                 // no request was sent: the circuit is open, or hubcap is offline
)

var kindNames = [...]string{"unreachable", "server error", "rate limited", "denied", "not found", "withdrawn", "refused", "invalid answer", "unasked"}

func (k Kind) String() string { return kindNames[k] }

// Error is a failure of a registry. Its text is for the operator: it names the
// upstream and the request, and no credential, token or signed address.
type Error struct {
	Kind        Kind
	Upstream    string        // the configured host or pattern
	Request     string        // method and path
	Status      int           // of the HTTP answer, 0 when there was none
	Refusal     Refusal       // what a Denied, NotFound or Withdrawn comes from
	Code        string        // of the OCI error in the answer; empty when it has none
	Message     string        // of the answer: one printable line without secrets, at most maxMessage characters
	RetryAfter  time.Duration // that a 429 or 503 stated, or until hubcap asks again; 0 when not known
	Credentials bool          // the box's own were used
	Challenge   string        // for the client on whose behalf was asked (RFC 9110, 11.6.1); empty for none, or one that is not relayed
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

// IsKind reports whether err is an Error of one of the kinds.
func IsKind(err error, kinds ...Kind) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && slices.Contains(kinds, e.Kind)
}

// temporaryFor is the longest wait of a temporary failure: clients that are
// reading a body tolerate it.
const temporaryFor = 30 * time.Second

// Temporary reports whether the same request may soon succeed, or after Wait.
func (e *Error) Temporary() bool {
	switch e.Kind {
	case Unreachable, ServerError:
		return true
	case RateLimited, Unasked:
		return e.RetryAfter > 0 && e.RetryAfter <= temporaryFor
	default:
		return false
	}
}

// Wait returns how long no request is to be sent; 0 when not known.
func (e *Error) Wait() time.Duration {
	if e.Kind == RateLimited || e.Kind == Unasked {
		return e.RetryAfter
	}
	return 0
}

// Unsatisfiable reports whether the requested range is outside the content.
func (e *Error) Unsatisfiable() bool { return e.Status == http.StatusRequestedRangeNotSatisfiable }

// Failing reports whether the error is trouble of the registry, during which
// cached content is served, and no answer about the content. A refusal that is
// no OCI error comes from something else than the registry, and a registry that
// refuses a token of its own token service is faulty.
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

// query matches a query string, up to the end of quotes around it.
var query = regexp.MustCompile(`(?s)\?(?:\\.|[^"\\])*`)

// redact removes query strings from a message: they hold signatures, account
// names and tokens.
func redact(s string) string { return query.ReplaceAllString(s, "?…") }

// failure returns the Error for an HTTP client's error.
func (c *Client) failure(req *http.Request, err error) error {
	if cause := context.Cause(req.Context()); cause != nil && !errors.Is(cause, errStalled) {
		return cause
	}
	if one, ok := errors.AsType[*Error](err); ok { // of the anonymous client that asked in this one's place
		return one
	}
	e := &Error{Kind: Unreachable, Upstream: c.o.Label, Request: describe(req), Credentials: c.login != nil, err: err}
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
			e.Kind = ServerError // the service is missing, not the content
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
	host := c.o.URL.Host
	if errors.As(e.err, &inURL) {
		e.err = inURL.Err // without the address
		if at, err := url.Parse(inURL.URL); err == nil {
			host = at.Host
		}
	}
	if authority, ok := unknownAuthority(e.err); ok {
		e.err = fmt.Errorf("%s: %w", advice.UnknownAuthority(host, authority), e.err)
	}
	return e
}

// unknownAuthority returns the name of the authority whose certificates are not
// trusted, if that is what err says.
func unknownAuthority(err error) (name string, ok bool) {
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) || unknown.Cert == nil {
		return "", false
	}
	issuer := unknown.Cert.Issuer
	if name = issuer.CommonName; name == "" {
		name = issuer.String()
	}
	return printable(name), true
}

func (c *Client) invalid(req *http.Request, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Upstream: c.o.Label, Request: describe(req), err: fmt.Errorf(format, args...)}
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
	// Harbor answers 412 for what a project's policy blocks; 402 and 451 are
	// defined so (RFC 9110, 15.5.3; RFC 7725).
	case status == http.StatusPaymentRequired || status == http.StatusPreconditionFailed || status == http.StatusUnavailableForLegalReasons:
		return Withdrawn
	case status >= 500:
		return ServerError
	default:
		return Invalid
	}
}

// maxRetryAfter bounds a Retry-After: the window of Docker Hub's pull limit.
// Where it is not about a pull limit, maxBackoff bounds it further.
const maxRetryAfter = 6 * time.Hour

// Above these a Retry-After is a time since 1970, in seconds or milliseconds, and
// no number of seconds to wait, which would be thirty years. Docker Hub has sent
// the former.
const (
	sinceEpochSeconds = 1e9
	sinceEpochMillis  = 1e12
)

// retryAfter returns a Retry-After, in either of its forms (RFC 9110, 10.2.3). A
// time is compared with the answer's own Date, so that no clock need be right, or
// with now if there is none.
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
