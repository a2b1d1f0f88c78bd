package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"

	"hubcap/metrics"
)

// hostsKept bounds for how many hosts behind one upstream something is
// remembered: where it redirects to is its own choice.
const hostsKept = 64

// tripAfter is how many requests in a row must have failed before a host is
// left alone: one that is refused is sent three times.
const tripAfter = 5

// failingFor is how long a failure that nothing has followed counts as the
// state of a host.
const failingFor = time.Minute

// The pause after a 429 that names none, and its bound when they go on.
const (
	firstPause = 5 * time.Second
	maxPause   = time.Minute
)

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
		return fmt.Sprintf("not asked: %s has failed %d times in a row and is tried again within %s", p.host, tripAfter, p.wait)
	}
}

// errOffline says that hubcap asks nobody, because it was told so.
var errOffline = errors.New("not asked: HUBCAP_OFFLINE is set")

// errGateway says that a host passes requests on to nobody, or is not ready for
// them: 502, 503, 504.
var errGateway = errors.New("502, 503 or 504")

// errNotItsFault marks a failure that says nothing of the host.
var errNotItsFault = errors.New("not the host's fault")

// hosts is what is known of the hosts behind one upstream, whoever asks: the
// registry, its token services, where it redirects to.
type hosts struct {
	label      string
	registry   string
	tokenHosts []string
	tryAgain   time.Duration
	now        func() time.Time
	metrics    *metrics.Upstreams
	log        *slog.Logger

	troubles atomic.Int64 // how often a host has failed or said 429; 0 once none is known to do so

	mu    sync.Mutex
	known *lru.Cache[string, *host]
}

func newHosts(o Options) *hosts {
	h := &hosts{
		label: o.Label, registry: hostPort(o.URL), tokenHosts: o.TokenHosts, tryAgain: o.TryAgain,
		now: o.Now, metrics: o.Metrics, log: o.Log,
	}
	known, err := lru.NewWithEvict(hostsKept, func(_ string, gone *host) { gone.moved(gone.breaker.State(), gobreaker.StateClosed) })
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
	one := &host{hosts: h, name: name}
	one.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     h.tryAgain,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNotItsFault) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			one.moved(from, to)
			one.report(to)
		},
	})
	h.known.Add(name, one)
	return one
}

// failing tells that the registry, or a token service of it, did not answer
// when it was last asked, and that not long ago, or is left alone for longer
// than patience. It costs nothing while all is well.
func (h *hosts) failing(patience time.Duration) bool {
	seen := h.troubles.Load()
	if seen == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	well := true
	for _, name := range append([]string{h.registry}, h.tokenHosts...) {
		one, ok := h.known.Peek(name)
		if !ok {
			continue
		}
		wait := one.wait()
		if one.failing() || wait > patience {
			return true
		}
		well = well && wait == 0
	}
	if well {
		h.troubles.CompareAndSwap(seen, 0) // but for a failure of this moment
	}
	return false
}

// forget forgets all hosts.
func (h *hosts) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known.Purge()
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

// host is one host, and whether it should be asked.
type host struct {
	hosts   *hosts
	name    string
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu     sync.Mutex
	until  time.Time     // it has said 429, and is not asked before
	pause  time.Duration // the last one that it did not name; 0 once it has answered
	failed time.Time     // its last failure; zero once it has answered
	told   time.Time     // when the operator was last told of a 429
}

// admit tells why a request to the host is not to be sent. Whoever may send it
// calls done with the outcome.
func (h *host) admit() (done func(error), err error) {
	if wait := h.wait(); wait > 0 {
		return nil, &postponed{host: h.name, wait: wait, limited: true}
	}
	if done, err = h.breaker.Allow(); err != nil {
		return nil, &postponed{host: h.name, wait: h.hosts.tryAgain}
	}
	return done, nil
}

// wait is how long the host wants to be left alone.
func (h *host) wait() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.until.Sub(h.hosts.now()), 0)
}

// slow notes a 429 of any but a pull limit. One that names no time is followed
// by a pause that doubles as long as they go on. It tells whether the operator
// is to be told.
func (h *host) slow(retryAfter time.Duration) (tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.hosts.now()
	if retryAfter <= 0 && now.Before(h.until) {
		return false // of a request that was under way already
	}
	if retryAfter <= 0 {
		h.pause = min(max(2*h.pause, firstPause), maxPause)
		retryAfter = h.pause
	}
	if until := now.Add(retryAfter); until.After(h.until) {
		h.until = until
		h.hosts.troubles.Add(1)
	}
	if tell = now.Sub(h.told) >= tellAfter; tell {
		h.told = now
	}
	return tell
}

// learn notes the answer to a request, for whoever asks whether the host fails.
func (h *host) learn(status int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case errors.Is(err, errNotItsFault):
	case err != nil || status >= http.StatusInternalServerError:
		h.failed = h.hosts.now()
		h.hosts.troubles.Add(1)
	default:
		h.failed = time.Time{}
		if status != http.StatusTooManyRequests {
			h.pause = 0
		}
	}
}

// failing tells that the host did not answer, or with a 5xx, when it was last
// asked, and that not long ago.
func (h *host) failing() bool {
	if h.breaker.State() == gobreaker.StateOpen {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.failed.IsZero() && h.hosts.now().Sub(h.failed) < failingFor
}

// moved counts a change of the circuit.
func (h *host) moved(from, to gobreaker.State) {
	role := h.hosts.role(h.name)
	for state, by := range map[gobreaker.State]float64{from: -1, to: 1} {
		switch state {
		case gobreaker.StateOpen:
			h.hosts.metrics.Circuit(h.hosts.label, role, metrics.CircuitOpen, by)
		case gobreaker.StateHalfOpen:
			h.hosts.metrics.Circuit(h.hosts.label, role, metrics.CircuitHalfOpen, by)
		case gobreaker.StateClosed:
		}
	}
}

// report tells the operator of a change of the circuit.
func (h *host) report(to gobreaker.State) {
	switch to {
	case gobreaker.StateOpen:
		h.hosts.log.Warn("a host fails and is left alone; what is held is served, and one request in a while tries it again",
			"upstream", h.hosts.label, "host", h.name, "try_again", h.hosts.tryAgain)
	case gobreaker.StateClosed:
		h.hosts.log.Info("a host that failed answers again", "upstream", h.hosts.label, "host", h.name)
	case gobreaker.StateHalfOpen:
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

func (c *careful) RoundTrip(req *http.Request) (*http.Response, error) {
	h := c.hosts.of(req.URL)
	done, err := h.admit()
	if err != nil {
		return nil, err
	}
	resp, err := c.base.RoundTrip(req)
	outcome := outcomeOf(req, resp, err)
	done(outcome)
	if err != nil {
		h.learn(0, outcome)
		return nil, err
	}
	h.learn(resp.StatusCode, nil)
	if sameOrigin(req.URL, c.registry) {
		c.budget.read(resp.Header)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		c.limited(h, req, resp)
	}
	return resp, nil
}

// limited takes a 429 for what it is, and tells the operator.
func (c *careful) limited(h *host, req *http.Request, resp *http.Response) {
	log := c.hosts.log.With("upstream", c.hosts.label, "host", h.name)
	if sameOrigin(req.URL, c.registry) && isPull(req) && isPullLimit(resp, c.patience) {
		if wait, tell := c.budget.stop(retryAfter(resp.Header)); tell {
			log.Warn("the pull limit is reached: no manifests are fetched until it allows more, what is held is served; HUBCAP_UPSTREAM_<n>_USERNAME and _PASSWORD pull under an account's own limit",
				"within", wait.Round(time.Second))
		}
		return
	}
	if h.slow(retryAfter(resp.Header)) {
		log.Warn("a host says 429 to requests of any kind and is left alone; what is held is served. If this goes on, something asks too much: hubcap_upstream_requests_total shows when",
			"for", h.wait().Round(time.Second))
	}
}

// outcomeOf is what an exchange says of its host: nil when it works.
func outcomeOf(req *http.Request, resp *http.Response, err error) error {
	switch {
	case err != nil && (req.Context().Err() != nil || notSent(err) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)):
		return errNotItsFault
	case err != nil:
		return err
	case resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout:
		return errGateway
	default:
		return nil
	}
}

// offline stands in place of the network where HUBCAP_OFFLINE is set.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) { return nil, errOffline }
