package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Role is the part that a host plays for its upstream.
type Role uint8

// The roles.
const (
	RoleRegistry  Role = iota
	RoleToken          // a token service on its list
	RoleElsewhere      // where it redirects to: its CDN
	roles
)

var roleNames = [roles]string{"registry", "token", "elsewhere"}

// CircuitState is the state of a circuit breaker that lets not all requests
// through.
type CircuitState uint8

// The states.
const (
	CircuitOpen     CircuitState = iota // none
	CircuitHalfOpen                     // one, which is to show whether the host answers again
	circuitStates
)

var circuitNames = [circuitStates]string{"open", "half_open"}

// limits are what registries grant, and the hosts that are left alone.
type limits struct {
	limit, remaining, window, exhausted, source *prometheus.GaugeVec

	pulls    *prometheus.CounterVec
	circuits *prometheus.GaugeVec
}

func newLimits(registry prometheus.Registerer) limits {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	l := limits{
		limit:     gauge("upstream_ratelimit_limit", "Pulls that the upstream allows per window, as it last reported.", "upstream", "identity"),
		remaining: gauge("upstream_ratelimit_remaining", "Pulls left in the window, as the upstream last reported.", "upstream", "identity"),
		window:    gauge("upstream_ratelimit_window_seconds", "Length of the window that pulls are counted in, as the upstream last reported.", "upstream", "identity"),
		exhausted: gauge("upstream_ratelimit_exhausted_seconds", "Estimated seconds until the pull limit is exhausted, from the rate of the last hour; +Inf if the remaining pulls do not decrease.", "upstream", "identity"),
		source:    gauge("upstream_ratelimit_source", "1 for the address or account whose pulls the upstream counts, as it last reported.", "upstream", "identity", "source"),
		circuits:  gauge("upstream_circuits", "Hosts of an upstream whose circuit is open (no requests are sent) or half_open (one request tests the host), by role: registry, token (token service), elsewhere (redirect targets such as a CDN).", "upstream", "role", "state"),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "upstream_pulls_total",
			Help: "Manifests fetched from an upstream with GET. Docker Hub counts these as pulls.",
		}, []string{"upstream", "identity"}),
	}
	registry.MustRegister(l.pulls)
	return l
}

// Limit notes how many pulls the upstream's window holds, and how long the
// window is; 0 where that is not known.
func (u *Upstream) Limit(n int, window time.Duration) {
	u.limits.limit.WithLabelValues(u.host, u.identity).Set(float64(n))
	if window > 0 {
		u.limits.window.WithLabelValues(u.host, u.identity).Set(window.Seconds())
	}
}

// Remaining notes how many pulls are left in the window, and for how long they
// last at the present pace; negative for ever.
func (u *Upstream) Remaining(n int, lasts time.Duration) {
	seconds := lasts.Seconds()
	if lasts < 0 {
		seconds = math.Inf(1)
	}
	u.limits.remaining.WithLabelValues(u.host, u.identity).Set(float64(n))
	u.limits.exhausted.WithLabelValues(u.host, u.identity).Set(seconds)
}

// Source notes whose pulls the upstream counts: an address, or an account.
// There is one at a time.
func (u *Upstream) Source(source string) {
	if before := u.source.Swap(&source); before != nil && *before != source {
		u.limits.source.DeleteLabelValues(u.host, u.identity, *before)
	}
	u.limits.source.WithLabelValues(u.host, u.identity, source).Set(1)
}

// Pulled notes a manifest that was fetched.
func (u *Upstream) Pulled() { u.pulls.Inc() }

// Circuit notes that there is one host more, or less, in a state: by is 1
// or -1.
func (u *Upstreams) Circuit(upstream string, role Role, state CircuitState, by float64) {
	u.circuits.WithLabelValues(upstream, roleNames[role], circuitNames[state]).Add(by)
}
