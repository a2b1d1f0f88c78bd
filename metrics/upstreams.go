package metrics

import (
	"sync/atomic"

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

// ClassOf sorts an HTTP status.
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

// Upstreams makes the counters of each configured upstream.
type Upstreams struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	useless  *prometheus.CounterVec
	limits
}

func newUpstreams(registry prometheus.Registerer) *Upstreams {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	return &Upstreams{
		requests: vec("upstream_requests_total", "HTTP requests sent to an upstream, its token service and its CDN, by status class; none means no usable answer.", "upstream", "class"),
		bytes:    vec("upstream_bytes_total", "Body bytes received from an upstream.", "upstream"),
		tokens:   vec("upstream_token_requests_total", "Token requests sent for an upstream.", "upstream"),
		refused:  vec("upstream_refused_total", "Connections, redirects and token services of an upstream that hubcap refused to use.", "upstream"),
		useless:  vec("upstream_credential_failures_total", "Requests for which the box's credentials failed: unavailable (their source gave none), refused (not accepted), forbidden (no right to the repository).", "upstream", "reason"),
		limits:   newLimits(registry),
	}
}

// Upstream counts the traffic with one upstream under one identity.
type Upstream struct {
	requests [classes]prometheus.Counter
	bytes    prometheus.Counter
	tokens   prometheus.Counter
	refused  prometheus.Counter
	pulls    prometheus.Counter
	source   atomic.Pointer[string] // of the pull limit, as it was last told

	limits   *Upstreams
	host     string
	identity string
}

// Of returns the counters of the upstream configured as host. The identity
// is "anonymous", "credentials" or "client"; only pulls and their limit are told apart by it.
func (u *Upstreams) Of(host, identity string) *Upstream {
	up := &Upstream{
		bytes:    u.bytes.WithLabelValues(host),
		tokens:   u.tokens.WithLabelValues(host),
		refused:  u.refused.WithLabelValues(host),
		pulls:    u.pulls.WithLabelValues(host, identity),
		limits:   u,
		host:     host,
		identity: identity,
	}
	if identity == "credentials" {
		up.exportUseless()
	}
	for c := range classes {
		up.requests[c] = u.requests.WithLabelValues(host, classNames[c])
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
