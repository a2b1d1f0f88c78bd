package upstream

import (
	"context"
	"errors"
	"fmt"
	"hubcap/metrics"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// postponed says that a request was not sent.
type postponed struct {
	host    string
	wait    time.Duration // until it may be sent; an estimate unless limited
	limited bool          // the host has answered 429; else it fails
	status  int           // 429 where the host has just answered so
}

func (p *postponed) Error() string {
	switch {
	case p.status != 0:
		return fmt.Sprintf("%s allows no requests for %s", p.host, p.wait.Round(time.Second))
	case p.limited:
		return fmt.Sprintf("not sent: %s allows no requests for another %s", p.host, p.wait.Round(time.Second))
	default:
		return fmt.Sprintf("not sent: requests to %s for several objects have failed; it is tried again within %s", p.host, p.wait)
	}
}

// breaker sends requests to hosts that can be expected to answer: circuit
// breakers and backoffs, which learn from the answers.
type breaker struct {
	base    http.RoundTripper
	hosts   *hosts
	budget  *budget
	metrics *metrics.Upstream
}

// exchange is one request that is sent, and what its outcome decides.
type exchange struct {
	*breaker
	host   *host
	req    *http.Request
	object string
	trial  bool // of the circuit
	probe  bool // of the backoff
}

// RoundTrip implements http.RoundTripper.
func (b *breaker) RoundTrip(req *http.Request) (*http.Response, error) {
	x, err := b.admit(req)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	resp, err := b.base.RoundTrip(req)
	if err == nil && resp.StatusCode < http.StatusBadRequest {
		b.metrics.Answered(b.hosts.role(x.host.name), time.Since(began))
	}
	how := outcomeOf(req, resp, err)
	if how == works && req.Method == http.MethodGet && resp.StatusCode < 300 {
		resp.Body = &observedBody{ReadCloser: resp.Body, exchange: x}
	} else {
		x.ended(how)
	}
	if err != nil {
		return nil, err
	}
	if sameOrigin(req.URL, b.hosts.URL) {
		b.budget.read(resp.Header)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		x.limited(resp)
	} else {
		x.host.backoff.answered(x.probe)
	}
	return resp, nil
}

// admit returns the request as one that is sent, or why it is not.
func (b *breaker) admit(req *http.Request) (*exchange, error) {
	x := &exchange{breaker: b, host: b.hosts.of(req.URL), req: req, object: objectOf(req)}
	var wait time.Duration
	if x.probe, wait = x.host.backoff.admit(); wait > 0 {
		return nil, &postponed{host: x.host.name, wait: wait, limited: true}
	}
	ok, trial, wait := x.host.circuit.admit()
	if trial {
		ok, x.trial = x.host.circuit.tried(x.host.checkHealth(req.Context(), b.base))
		wait = b.hosts.TryAgain
	}
	if !ok {
		return nil, &postponed{host: x.host.name, wait: wait}
	}
	return x, nil
}

// ended takes the outcome of the request. If the host or the object may be the
// cause of a failure, the host's health is checked.
func (x *exchange) ended(how outcome) {
	c := &x.host.circuit
	c.note(x.object, how, x.trial)
	x.trial = false
	if how != unconnected && how != failed {
		return
	}
	x.host.network.Store(&x.base)
	if how == failed && c.due(checkPause) {
		c.answered(x.host.checkHealth(x.req.Context(), x.base))
	}
}

// limited tells the 429 of a pull limit from others, and logs it.
func (x *exchange) limited(resp *http.Response) {
	now := x.hosts.Now()
	log := x.hosts.Log.With("upstream", x.hosts.Label, "host", x.host.name)
	wait := retryAfter(resp.Header, now)
	if sameOrigin(x.req.URL, x.hosts.URL) && isPull(x.req) && isPullLimit(resp, x.hosts.StallTimeout) {
		x.host.backoff.answered(x.probe)
		wait = x.budget.stop(wait)
		if x.budget.log.Allow(now) {
			log.Warn("the pull limit is reached: no manifests are fetched until it allows more, cached content is served; HUBCAP_UPSTREAM_<n>_USERNAME and _PASSWORD pull under an account's own limit",
				"within", wait.Round(time.Second))
		}
		return
	}
	begun := x.host.backoff.begin(wait, x.probe)
	x.hosts.troubles.Add(1)
	if begun && x.host.limited.Allow(now) {
		log.Warn("a host says 429 to requests of any kind and gets none for a while; cached content is served. If this goes on, too much is requested: hubcap_upstream_requests_total shows when",
			"for", x.host.backoff.wait().Round(time.Second))
	}
}

// observedBody is the body of an answer: its first byte shows that the host
// works, and a premature end that it may not.
type observedBody struct {
	io.ReadCloser
	*exchange
	closed atomic.Bool

	mu    sync.Mutex // guards known and the exchange: a body may be closed while it is read
	known bool       // an outcome was taken
}

func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	cause := context.Cause(b.req.Context())
	switch {
	case n > 0 || err == io.EOF:
		b.take(works, false)
	case err == nil:
	case b.closed.Load() || cause != nil && !errors.Is(cause, errStalled):
		b.take(nothing, false)
	default:
		b.take(noBlob, true) // however much came before
	}
	return n, err
}

func (b *observedBody) Close() error {
	b.closed.Store(true)
	b.take(nothing, false)
	return b.ReadCloser.Close()
}

// take takes the first outcome, and further ones that are final.
func (b *observedBody) take(how outcome, final bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known || final {
		b.known = true
		b.ended(how)
	}
}

// outcomeOf returns what an exchange, up to the headers, shows about its host.
func outcomeOf(req *http.Request, resp *http.Response, err error) outcome {
	var op *net.OpError
	switch {
	case err != nil && (req.Context().Err() != nil || ownFault(err)):
		return nothing
	case err != nil && errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return unconnected
	case err != nil || resp.StatusCode >= http.StatusInternalServerError && resp.StatusCode != http.StatusNotImplemented:
		return failed
	default:
		return works
	}
}

// ownFault reports whether the cause of a failure is hubcap itself.
func ownFault(err error) bool {
	return notSent(err) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

type objectKey struct{}

// withObject names what a request is about where its address does not.
func withObject(ctx context.Context, object string) context.Context {
	return context.WithValue(ctx, objectKey{}, object)
}

// objectOf names what a request is about, so that the requests that a client
// causes for one object count once: of a token request its scope, else the name
// in the context, else the path before any redirect.
func objectOf(req *http.Request) string {
	if scopes := req.URL.Query()["scope"]; len(scopes) > 0 {
		return "token for " + strings.Join(scopes, " ")
	}
	if object, ok := req.Context().Value(objectKey{}).(string); ok {
		return object
	}
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req.URL.Path
}
