package metrics

import "github.com/prometheus/client_golang/prometheus"

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
	refused  *prometheus.CounterVec
	pulls    *prometheus.CounterVec
	foreign  *prometheus.CounterVec
	failures *prometheus.CounterVec
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
		refused:  vec("upstream_refused_total", "Connections, redirects and token services of an upstream that hubcap refused to use.", "upstream"),
		pulls:    vec("upstream_pulls_total", "Manifests fetched from an upstream with GET. Docker Hub counts these as pulls.", "upstream", "identity"),
		foreign:  vec("upstream_ratelimit_foreign_total", "Pulls that counted against a pull limit of this box and that it did not make: of hosts that pull past it from the same address, or of other users of the account. At least so many; those made while the window gave pulls back are missed.", "upstream", "identity"),
		failures: vec("upstream_credential_failures_total", "Requests for which the box's credentials failed: unavailable (their source gave none), refused (not accepted), forbidden (no right to the repository).", "upstream", "reason"),
	}
	registry.MustRegister(&u.upstreamStates)
	return u
}

// Upstream counts the traffic with one upstream under one identity.
type Upstream struct {
	host     string
	identity string
	foreign  *prometheus.CounterVec // has a series once a limit is stated
	requests [classes]prometheus.Counter
	bytes    prometheus.Counter
	tokens   prometheus.Counter
	refused  prometheus.Counter
	pulls    prometheus.Counter
	failures [credentialFailures]prometheus.Counter // nil for identities other than credentials
}

// Of returns the counters of the upstream configured as host, a name or a
// pattern. The identity is "anonymous", "credentials" or "client"; only pulls
// are counted by it.
func (u *Upstreams) Of(host, identity string) *Upstream {
	up := &Upstream{
		host: host, identity: identity, foreign: u.foreign,
		bytes:   u.bytes.WithLabelValues(host),
		tokens:  u.tokens.WithLabelValues(host),
		refused: u.refused.WithLabelValues(host),
		pulls:   u.pulls.WithLabelValues(host, identity),
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

// Received notes n body bytes.
func (u *Upstream) Received(n int) { u.bytes.Add(float64(n)) }

// Token notes a request to the token service.
func (u *Upstream) Token() { u.tokens.Inc() }

// Refused notes an address, redirect or token service that was not followed.
func (u *Upstream) Refused() { u.refused.Inc() }

// Pulled notes a manifest that was fetched.
func (u *Upstream) Pulled() { u.pulls.Inc() }

// Foreign notes n pulls of this identity's limit that the box did not make. The
// first call, with 0 too, makes the series.
func (u *Upstream) Foreign(n int) {
	u.foreign.WithLabelValues(u.host, u.identity).Add(float64(n))
}

// CredentialsFailed notes a request for which the box's credentials failed.
func (u *Upstream) CredentialsFailed(why CredentialFailure) { u.failures[why].Inc() }
