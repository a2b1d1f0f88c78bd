package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Class is how an upstream answered one HTTP request.
type Class uint8

// The classes of answers; 429 stands apart because it is the one to watch.
const (
	ClassSuccess     Class = iota // 2xx
	ClassRedirect                 // 3xx
	ClassClientError              // 4xx but 429
	ClassLimited                  // 429
	ClassServerError              // 5xx
	ClassNoAnswer                 // no connection, a time-out, a broken answer
	classes
)

var classNames = [classes]string{"2xx", "3xx", "4xx", "429", "5xx", "none"}

func (c Class) String() string { return classNames[c] }

// ClassOf returns the class of an HTTP status.
func ClassOf(status int) Class {
	switch {
	case status == 429:
		return ClassLimited
	case status >= 500:
		return ClassServerError
	case status >= 400:
		return ClassClientError
	case status >= 300:
		return ClassRedirect
	default:
		return ClassSuccess
	}
}

// Upstreams makes the counters of each configured upstream, and exports the
// states that it is given to Watch.
type Upstreams struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	blocked  *prometheus.CounterVec
	pulls    *prometheus.CounterVec
	foreign  *prometheus.CounterVec
	failures *prometheus.CounterVec
	seconds  *prometheus.SummaryVec
	upstreamStates
}

func newUpstreams(registry prometheus.Registerer) *Upstreams {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	u := &Upstreams{
		requests: vec("upstream_requests_total", "HTTP requests sent to an upstream, its token service and its CDN, by status class; none means no usable answer.", "upstream", "class"),
		bytes:    vec("upstream_bytes_total", "Body bytes received from an upstream.", "upstream"),
		tokens:   vec("upstream_token_requests_total", "Token requests sent for an upstream.", "upstream"),
		blocked:  vec("upstream_blocked_requests_total", "Requests that hubcap did not send, or redirects that it did not follow, because an address, a redirect or a token service of the upstream is not allowed.", "upstream"),
		pulls:    vec("upstream_pulls_total", "Manifests fetched from an upstream with GET. Docker Hub counts these as pulls.", "upstream", "identity"),
		foreign:  vec("upstream_ratelimit_foreign_total", "Pulls that counted against a pull limit of this box and that it did not make: of hosts that pull past it from the same address, or of other users of the account. At least so many; those made while the window gave pulls back are missed.", "upstream", "identity"),
		failures: vec("upstream_credential_failures_total", "Requests for which the box's credentials failed: unavailable (their source gave none), refused (not accepted), forbidden (no right to the repository).", "upstream", "reason"),
	}
	// Sum and count alone: with the buckets of a histogram, a dozen upstreams
	// with three roles each would be a third of all series.
	u.seconds = prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Namespace: namespace, Name: "upstream_request_duration_seconds",
		Help: "Seconds from sending a request to the head of its answer, for answers of success (2xx, 3xx), by role of the host: registry, token (token service), redirect (redirect targets such as a CDN).",
	}, []string{"upstream", "role"})
	registry.MustRegister(u.seconds, &u.upstreamStates)
	return u
}

// roles are those of the hosts behind an upstream.
var roles = []string{"registry", "token", "redirect"}

// Upstream counts the traffic with one upstream under one identity.
type Upstream struct {
	host     string
	identity string
	foreign  *prometheus.CounterVec // has a series once a limit is stated
	requests [classes]prometheus.Counter
	bytes    prometheus.Counter
	tokens   prometheus.Counter
	blocked  prometheus.Counter
	pulls    prometheus.Counter
	failures [credentialFailures]prometheus.Counter // nil for identities other than credentials
	seconds  prometheus.ObserverVec                 // by role
}

// Of returns the counters of the upstream configured as host, a name or a
// pattern. The identity is "anonymous", "credentials" or "client"; only pulls
// are counted by it.
func (u *Upstreams) Of(host, identity string) *Upstream {
	up := &Upstream{
		host: host, identity: identity, foreign: u.foreign,
		bytes:   u.bytes.WithLabelValues(host),
		tokens:  u.tokens.WithLabelValues(host),
		blocked: u.blocked.WithLabelValues(host),
		pulls:   u.pulls.WithLabelValues(host, identity),
		seconds: u.seconds.MustCurryWith(prometheus.Labels{"upstream": host}),
	}
	for c := range classes {
		up.requests[c] = u.requests.WithLabelValues(host, classNames[c])
	}
	if identity == "credentials" {
		for f := range credentialFailures {
			up.failures[f] = u.failures.WithLabelValues(host, f.String())
		}
	}
	return up
}

// Request notes one HTTP request and how it was answered.
func (u *Upstream) Request(c Class) { u.requests[c].Inc() }

// Answered notes how long a host took to answer a request with success. role is
// of a closed set: registry, token, redirect; its series appears with the first
// answer.
func (u *Upstream) Answered(role string, took time.Duration) {
	u.seconds.WithLabelValues(role).Observe(took.Seconds())
}

// Received notes n body bytes.
func (u *Upstream) Received(n int) { u.bytes.Add(float64(n)) }

// Token notes a request to the token service.
func (u *Upstream) Token() { u.tokens.Inc() }

// Blocked notes a request that was not sent, or a redirect that was not followed,
// because its target is not allowed.
func (u *Upstream) Blocked() { u.blocked.Inc() }

// Pulled notes a manifest that was fetched.
func (u *Upstream) Pulled() { u.pulls.Inc() }

// Foreign notes n pulls of this identity's limit that the box did not make. The
// first call, with 0 too, makes the series.
func (u *Upstream) Foreign(n int) {
	u.foreign.WithLabelValues(u.host, u.identity).Add(float64(n))
}

// CredentialsFailed notes a request for which the box's credentials failed.
func (u *Upstream) CredentialsFailed(why CredentialFailure) { u.failures[why].Inc() }
