package metrics

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// UpstreamStates are the states of upstreams at one moment.
type UpstreamStates struct {
	Limits   []PullLimit
	Circuits []Circuit // that are not closed
}

// PullLimit is how many manifests an upstream lets one identity fetch.
type PullLimit struct {
	Upstream  string // the configured host or pattern
	Identity  string // of a closed set: anonymous, credentials, client
	Limit     int    // pulls per window; negative when not stated
	Remaining int    // pulls left; negative when not stated
	Window    time.Duration
	Exhausted time.Duration // until no pull is left; negative when they do not decrease
	Stated    time.Time     // zero for never
}

// Circuit is a host whose circuit is not closed. Role and State are of closed
// sets: registry, token, redirect; open, half_open.
type Circuit struct{ Upstream, Role, State string }

// upstreamStates collects the states of upstreams, which are read at each scrape.
// Several hosts may be behind one pattern: of their limits the one stated last
// counts, their circuits are added up.
type upstreamStates struct {
	mu   sync.Mutex
	read []func() UpstreamStates
}

// Watch exports what read returns at each scrape.
func (s *upstreamStates) Watch(read func() UpstreamStates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = append(s.read, read)
}

var (
	limitDesc     = prometheus.NewDesc("hubcap_upstream_ratelimit_limit", "Pulls that the upstream allows per window, as it last reported.", []string{"upstream", "identity"}, nil)
	remainingDesc = prometheus.NewDesc("hubcap_upstream_ratelimit_remaining", "Pulls left in the window, as the upstream last reported.", []string{"upstream", "identity"}, nil)
	windowDesc    = prometheus.NewDesc("hubcap_upstream_ratelimit_window_seconds", "Length of the window that pulls are counted in, as the upstream last reported.", []string{"upstream", "identity"}, nil)
	exhaustedDesc = prometheus.NewDesc("hubcap_upstream_ratelimit_exhausted_seconds", "Estimated seconds until the pull limit is exhausted, from the rate of the last hour; +Inf if the remaining pulls do not decrease.", []string{"upstream", "identity"}, nil)
	circuitsDesc  = prometheus.NewDesc("hubcap_upstream_circuits", "Hosts of an upstream whose circuit is open (no requests are sent) or half_open (one request tests the host), by role: registry, token (token service), redirect (redirect targets such as a CDN).", []string{"upstream", "role", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (s *upstreamStates) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{limitDesc, remainingDesc, windowDesc, exhaustedDesc, circuitsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *upstreamStates) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	read := s.read
	s.mu.Unlock()
	limits := make(map[[2]string]PullLimit)
	circuits := make(map[Circuit]int)
	for _, one := range read {
		all := one()
		for _, l := range all.Limits {
			key := [2]string{l.Upstream, l.Identity}
			if before, ok := limits[key]; !ok || l.Stated.After(before.Stated) {
				limits[key] = l
			}
		}
		for _, c := range all.Circuits {
			circuits[c]++
		}
	}
	for _, l := range limits {
		l.collect(ch)
	}
	for c, n := range circuits {
		ch <- prometheus.MustNewConstMetric(circuitsDesc, prometheus.GaugeValue, float64(n), c.Upstream, c.Role, c.State)
	}
}

func (l PullLimit) collect(ch chan<- prometheus.Metric) {
	set := func(desc *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, l.Upstream, l.Identity)
	}
	if l.Limit >= 0 {
		set(limitDesc, float64(l.Limit))
	}
	if l.Window > 0 {
		set(windowDesc, l.Window.Seconds())
	}
	if l.Remaining < 0 {
		return
	}
	set(remainingDesc, float64(l.Remaining))
	if l.Exhausted < 0 {
		set(exhaustedDesc, math.Inf(1))
	} else {
		set(exhaustedDesc, l.Exhausted.Seconds())
	}
}
