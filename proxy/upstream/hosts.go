package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"hubcap/metrics"
)

// hostsKept bounds for how many hosts behind one upstream something is
// remembered: where it redirects to is its own choice.
const hostsKept = 64

// questionTimeout bounds how long a host has for its answer to the question
// how it is.
const questionTimeout = 10 * time.Second

// postponed says that a request was not sent.
type postponed struct {
	host    string
	wait    time.Duration // until it may be; a guess where limited is false
	limited bool          // the host has said 429; else it fails
	status  int           // 429 where it was asked and said so now
}

func (p *postponed) Error() string {
	switch {
	case p.status != 0:
		return fmt.Sprintf("%s wants to be left alone for %s", p.host, p.wait.Round(time.Second))
	case p.limited:
		return fmt.Sprintf("not asked: %s wants to be left alone for %s more", p.host, p.wait.Round(time.Second))
	default:
		return fmt.Sprintf("not asked: requests to %s for several objects have failed; it is tried again within %s", p.host, p.wait)
	}
}

// errOffline says that hubcap asks nobody, because it was told so.
var errOffline = errors.New("not asked: HUBCAP_OFFLINE is set")

// hosts is what is known of the hosts behind one upstream, whoever asks: the
// registry, its token services, where it redirects to.
type hosts struct {
	label      string
	url        *url.URL // of the registry
	registry   string
	tokenHosts []string
	userAgent  string
	tryAgain   time.Duration
	now        func() time.Time
	metrics    *metrics.Upstreams
	log        *slog.Logger

	troubles atomic.Int64 // counts evidence against hosts and 429s; 0 once all hosts are known to be well

	mu    sync.Mutex
	known *lru.Cache[string, *host]
}

func newHosts(o Options) *hosts {
	h := &hosts{
		label: o.Label, url: o.URL, registry: hostPort(o.URL), tokenHosts: o.TokenHosts, userAgent: o.UserAgent, tryAgain: o.TryAgain,
		now: o.Now, metrics: o.Metrics, log: o.Log,
	}
	known, err := lru.NewWithEvict(hostsKept, func(_ string, gone *host) { gone.export(gone.circuit.stateNow(), closed) })
	if err != nil {
		panic(err) // only a size below one is an error
	}
	h.known = known
	return h
}

// of is what is known of the host that u addresses.
func (h *hosts) of(u *url.URL) *host {
	name := hostPort(u)
	h.mu.Lock()
	defer h.mu.Unlock()
	if one, ok := h.known.Get(name); ok {
		return one
	}
	one := &host{hosts: h, name: name, silence: silence{now: h.now}}
	one.circuit = circuit{
		now: h.now, tryAgain: h.tryAgain, blobs: h.role(name) == metrics.RoleElsewhere, moved: one.moved, bad: func() { h.troubles.Add(1) }, failed: make(map[string]outcome),
	}
	one.question.method, one.question.url = http.MethodHead, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
	if sameOrigin(u, h.url) {
		one.question.method, one.question.url = http.MethodGet, h.url.JoinPath("v2/").String()
	}
	h.known.Add(name, one)
	return one
}

// forget forgets all hosts.
func (h *hosts) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known.Purge()
}

func (h *hosts) all() []*host {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known.Values()
}

// role is the part that a host plays for its upstream.
func (h *hosts) role(name string) metrics.Role {
	switch {
	case name == h.registry:
		return metrics.RoleRegistry
	case slices.Contains(h.tokenHosts, name):
		return metrics.RoleToken
	default:
		return metrics.RoleElsewhere
	}
}

// Trouble says what of a registry is down: it does not answer, or it wants to be
// left alone. A single object that fails is no trouble.
type Trouble struct {
	Registry bool // the registry, or its token service: it answers nothing that is not known
	Blobs    bool // a host that it redirects to for blobs: manifests can be had, and blobs that are not held cannot
}

// trouble is Client.Trouble. It costs nothing while all is well. A host that
// has been down for a while is asked behind it whether it still is.
func (h *hosts) trouble(patience time.Duration) (t Trouble) {
	seen := h.troubles.Load()
	if seen == 0 {
		return t
	}
	all, quiet := h.all(), true
	for _, one := range all {
		since, down := one.circuit.trouble()
		wait := one.silence.wait()
		quiet = quiet && since.IsZero() && wait == 0
		if down {
			one.askBehind()
		}
		switch {
		case !down && wait <= patience:
		case h.role(one.name) != metrics.RoleElsewhere:
			t.Registry = true
		case !down || !h.replaced(all, since):
			t.Blobs = true
		}
	}
	if quiet {
		h.troubles.CompareAndSwap(seen, 0) // but for evidence of this moment
	}
	return t
}

// replaced reports whether blobs have come from any other host since one went
// down: registries have several, and change them.
func (h *hosts) replaced(all []*host, since time.Time) bool {
	return slices.ContainsFunc(all, func(other *host) bool {
		return h.role(other.name) == metrics.RoleElsewhere && other.circuit.worksSince(since)
	})
}

// host is one host, and whether it should be asked.
type host struct {
	hosts    *hosts
	name     string
	circuit  circuit
	silence  silence
	question struct{ method, url string }
	network  atomic.Pointer[http.RoundTripper] // by which it was last asked
}

// ask asks the host how it is: the registry for its GET /v2/, to which any
// registry says 200 or 401 (OCI distribution specification, "Determining
// Support"), any other one for a HEAD of its root, which is rarely served and
// always answered. The answer's content is not looked at: whatever is below 500
// comes from a host that works.
func (h *host) ask(ctx context.Context, network http.RoundTripper) health {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), questionTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, h.question.method, h.question.url, nil)
	if err != nil {
		return healthUnknown
	}
	req.Header.Set("User-Agent", h.hosts.userAgent)
	resp, err := network.RoundTrip(req)
	switch {
	case err != nil && ownFault(err):
		return healthUnknown
	case err != nil:
		return silent
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 2<<10) // so that the connection can be used again
	if resp.StatusCode >= http.StatusInternalServerError {
		return unwell
	}
	return well
}

// askBehind asks the host how it is, if that was long enough ago, and waits for
// nothing.
func (h *host) askBehind() {
	network := h.network.Load()
	if network != nil && h.circuit.due(max(h.hosts.tryAgain, askAgain)) {
		go func() { h.circuit.answered(h.ask(context.Background(), *network)) }()
	}
}

// moved is the circuit's hook.
func (h *host) moved(from, to state) {
	h.export(from, to)
	switch to {
	case open:
		h.hosts.log.Warn("a host fails and is left alone; what is held is served, and one request in a while tries it again",
			"upstream", h.hosts.label, "host", h.name, "try_again", h.hosts.tryAgain)
	case closed:
		h.hosts.log.Info("a host that failed answers again", "upstream", h.hosts.label, "host", h.name)
	case halfOpen:
	}
}

// export counts a change of the circuit.
func (h *host) export(from, to state) {
	role := h.hosts.role(h.name)
	for state, by := range map[state]float64{from: -1, to: 1} {
		switch state {
		case open:
			h.hosts.metrics.Circuit(h.hosts.label, role, metrics.CircuitOpen, by)
		case halfOpen:
			h.hosts.metrics.Circuit(h.hosts.label, role, metrics.CircuitHalfOpen, by)
		case closed:
		}
	}
}

// careful sends requests to hosts that can be expected to answer, and learns
// from the answers.
type careful struct {
	base     http.RoundTripper
	hosts    *hosts
	budget   *budget
	registry *url.URL
	patience time.Duration // for the text of a refusal
}

// attempted is a request that is sent, and what its outcome is of use for.
type attempted struct {
	*careful
	host   *host
	req    *http.Request
	object string
	trial  bool // of the circuit
	probe  bool // of the silence
}

func (c *careful) RoundTrip(req *http.Request) (*http.Response, error) {
	a, err := c.admit(req)
	if err != nil {
		return nil, err
	}
	resp, err := c.base.RoundTrip(req)
	how := outcomeOf(req, resp, err)
	if how == works && req.Method == http.MethodGet && resp.StatusCode < 300 {
		resp.Body = &heard{ReadCloser: resp.Body, attempted: a}
	} else {
		a.ended(how)
	}
	if err != nil {
		return nil, err
	}
	if sameOrigin(req.URL, c.registry) {
		c.budget.read(resp.Header)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		a.limited(resp)
	} else {
		a.host.silence.answered(a.probe)
	}
	return resp, nil
}

// admit returns the request as one that is sent, or why it is not.
func (c *careful) admit(req *http.Request) (*attempted, error) {
	a := &attempted{careful: c, host: c.hosts.of(req.URL), req: req, object: objectOf(req)}
	var wait time.Duration
	if a.probe, wait = a.host.silence.admit(); wait > 0 {
		return nil, &postponed{host: a.host.name, wait: wait, limited: true}
	}
	ok, trial, wait := a.host.circuit.admit()
	if trial {
		ok, a.trial = a.host.circuit.tried(a.host.ask(req.Context(), c.base))
		wait = c.hosts.tryAgain
	}
	if !ok {
		return nil, &postponed{host: a.host.name, wait: wait}
	}
	return a, nil
}

// ended takes the outcome of the request. Where that blames the host or the
// object, the host is asked how it is.
func (a *attempted) ended(how outcome) {
	c := &a.host.circuit
	c.note(a.object, how, a.trial)
	a.trial = false
	if how != unconnected && how != failed {
		return
	}
	a.host.network.Store(&a.base)
	if how == failed && c.due(askAgain) {
		c.answered(a.host.ask(a.req.Context(), a.base))
	}
}

// limited takes a 429 for what it is, and tells the operator.
func (a *attempted) limited(resp *http.Response) {
	log := a.hosts.log.With("upstream", a.hosts.label, "host", a.host.name)
	wait := retryAfter(resp.Header, a.hosts.now())
	if sameOrigin(a.req.URL, a.registry) && isPull(a.req) && isPullLimit(resp, a.patience) {
		a.host.silence.answered(a.probe)
		if wait, tell := a.budget.stop(wait); tell {
			log.Warn("the pull limit is reached: no manifests are fetched until it allows more, what is held is served; HUBCAP_UPSTREAM_<n>_USERNAME and _PASSWORD pull under an account's own limit",
				"within", wait.Round(time.Second))
		}
		return
	}
	tell := a.host.silence.begin(wait, a.probe)
	a.hosts.troubles.Add(1)
	if tell {
		log.Warn("a host says 429 to requests of any kind and is left alone; what is held is served. If this goes on, something asks too much: hubcap_upstream_requests_total shows when",
			"for", a.host.silence.wait().Round(time.Second))
	}
}

// heard is the body of an answer: its first byte says that its host works, and
// an end before its time that it may not.
type heard struct {
	io.ReadCloser
	*attempted
	closed atomic.Bool

	mu    sync.Mutex // of what follows, and of the attempt: a body may be closed while it is read
	known bool       // whether the host works
}

func (b *heard) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	cause := context.Cause(b.req.Context())
	switch {
	case n > 0 || err == io.EOF:
		b.learn(works, false)
	case err == nil:
	case b.closed.Load() || cause != nil && !errors.Is(cause, errStalled):
		b.learn(nothing, false)
	default:
		b.learn(noBlob, true) // however much came before
	}
	return n, err
}

func (b *heard) Close() error {
	b.closed.Store(true)
	b.learn(nothing, false)
	return b.ReadCloser.Close()
}

// learn takes an outcome, the first one unless it counts anyhow.
func (b *heard) learn(how outcome, anyhow bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known || anyhow {
		b.known = true
		b.ended(how)
	}
}

// outcomeOf is what an exchange, up to the headers, says of its host.
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

// ownFault reports whether hubcap itself is why a request was not sent.
func ownFault(err error) bool {
	return notSent(err) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

type objectKey struct{}

// withObject names what a request is about where its address does not.
func withObject(ctx context.Context, object string) context.Context {
	return context.WithValue(ctx, objectKey{}, object)
}

// objectOf names what a request is about: the requests that one client causes
// for one thing are about one object. It is the name in the request's context,
// or else the address that was asked for before any redirect, without its
// signature; of a token, its scope.
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

// offline stands in place of the network where HUBCAP_OFFLINE is set.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) { return nil, errOffline }
