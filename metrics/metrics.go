// Package metrics is what hubcap counts: one struct a room, made once and
// handed down. It knows Prometheus and nothing of registries, files or HTTP
// requests; the other rooms know its methods and not Prometheus.
//
// Every label value comes from a closed set: an enumeration below, or the
// hosts and patterns of the configured upstreams. Nothing that a client or an
// upstream sends becomes a label.
//
// What a room returns as its Status is not counted here but read when it is
// scraped: see Watch.
//
// Files: metrics.go (the whole and its handler), states.go (what is read from the
// rooms), requests.go (proxy), fills.go and checks.go (cache), upstreams.go, limits.go
// and credentials.go (proxy/upstream), space.go (eviction), prefetch.go
// (proxy/prefetch), ports.go (proxy/port), bypass.go (proxy/bypass), jobs.go
// (proxy/jobs), outage.go (proxy/outage), site.go (proxy/site), tier.go (proxy/tier),
// process.go (the log, the build), families.go (their documentation).
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "hubcap"

// Metrics holds every counter of one hubcap.
type Metrics struct {
	Requests  *Requests
	Fills     *Fills
	Upstreams *Upstreams
	Space     *Space
	Prefetch  *Prefetch
	Checks    *Checks
	Ports     *Ports
	Bypass    *Bypass
	Jobs      *Jobs
	Site      *Site
	Tier      *Tier
	Outage    *Outage

	registry *prometheus.Registry
}

// New returns counters at zero, beside Go's own and the process's.
func New() *Metrics {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return &Metrics{
		Requests:  newRequests(registry),
		Fills:     newFills(registry),
		Upstreams: newUpstreams(registry),
		Space:     newSpace(registry),
		Prefetch:  newPrefetch(registry),
		Checks:    newChecks(registry),
		Ports:     newPorts(registry),
		Bypass:    newBypass(registry),
		Site:      newSite(registry),
		Tier:      newTier(registry),
		Jobs:      newJobs(registry),
		Outage:    newOutage(registry),
		registry:  registry,
	}
}

// Handler answers /metrics in the formats that Prometheus reads.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Value is what a scrape would see of a metric, for tests: of its first series
// that has the labels; the sum where it is a histogram or a summary. The labels
// are names and values in turn; ok is false when there is no such series.
func (m *Metrics) Value(name string, labels ...string) (value float64, ok bool) {
	families, err := m.registry.Gather()
	if err != nil {
		return 0, false
	}
	for _, family := range families {
		for _, series := range family.GetMetric() {
			have := make(map[string]string)
			for _, l := range series.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			ok = family.GetName() == name
			for i := 0; i < len(labels); i += 2 {
				ok = ok && have[labels[i]] == labels[i+1]
			}
			if ok {
				return series.GetCounter().GetValue() + series.GetGauge().GetValue() + series.GetHistogram().GetSampleSum() + series.GetSummary().GetSampleSum(), true
			}
		}
	}
	return 0, false
}

// counters makes one counter a label value, in the order of names, so that
// counting is an array access and no value outside the set can appear.
func counters(registry prometheus.Registerer, name, help, label string, names []string) []prometheus.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
	registry.MustRegister(vec)
	all := make([]prometheus.Counter, len(names))
	for i, value := range names {
		all[i] = vec.WithLabelValues(value)
	}
	return all
}

// countersByName is counters for a caller that has the label's value as a string.
func countersByName(registry prometheus.Registerer, name, help, label string, names []string) map[string]prometheus.Counter {
	all := make(map[string]prometheus.Counter, len(names))
	for i, one := range counters(registry, name, help, label, names) {
		all[names[i]] = one
	}
	return all
}

func counter(registry prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	registry.MustRegister(c)
	return c
}

func gauge(registry prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	registry.MustRegister(g)
	return g
}
