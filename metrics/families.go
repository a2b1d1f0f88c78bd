package metrics

import (
	"slices"
	"strings"
	"time"
)

// Family is a metric as its documentation shows it.
type Family struct {
	Name   string
	Type   string // counter, gauge, histogram or summary
	Help   string
	Labels []Label // sorted by name
}

// Label is a label of a metric.
type Label struct {
	Name   string
	Values []string // sorted; nil where they depend on the configuration or the build
}

// Series returns the names of the metric's series.
func (f Family) Series() []string {
	switch f.Type {
	case "histogram":
		return []string{f.Name + "_bucket", f.Name + "_sum", f.Name + "_count", f.Name}
	case "summary":
		return []string{f.Name + "_sum", f.Name + "_count", f.Name}
	default:
		return []string{f.Name}
	}
}

// openLabels are the labels whose values are the operator's, or the build's.
var openLabels = []string{"upstream", "version", "revision"}

// Families returns hubcap's own metrics, sorted by name. A metric that has
// series only once something happens is sampled for it.
func Families() ([]Family, error) {
	m := New()
	m.sample()
	gathered, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	var all []Family
	for _, g := range gathered {
		if !strings.HasPrefix(g.GetName(), namespace+"_") {
			continue
		}
		f := Family{Name: g.GetName(), Type: strings.ToLower(g.GetType().String()), Help: g.GetHelp()}
		for _, series := range g.GetMetric() {
			for _, l := range series.GetLabel() {
				f.add(l.GetName(), l.GetValue())
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// add notes that a series has the label with this value.
func (f *Family) add(name, value string) {
	i := slices.IndexFunc(f.Labels, func(l Label) bool { return l.Name == name })
	if i < 0 {
		i = len(f.Labels)
		f.Labels = append(f.Labels, Label{Name: name})
	}
	l := &f.Labels[i]
	if !slices.Contains(openLabels, name) && !slices.Contains(l.Values, value) {
		l.Values = append(l.Values, value)
		slices.Sort(l.Values)
	}
}

// sample makes a series of every label value of the metrics that have none at
// the start.
func (m *Metrics) sample() {
	m.Build("", "")
	m.Log(func() uint64 { return 0 })
	m.sampleStates()
	var states UpstreamStates
	for _, identity := range []string{"anonymous", "credentials", "client"} {
		up := m.Upstreams.Of("docker.io", identity)
		for _, role := range roles {
			up.Answered(role, 0)
		}
		if identity != "client" {
			up.Foreign(0)
		}
		states.Limits = append(states.Limits, PullLimit{Upstream: "docker.io", Identity: identity, Limit: 1, Remaining: 1, Window: time.Hour})
	}
	for _, role := range roles {
		for _, state := range []string{"open", "half_open"} {
			states.Circuits = append(states.Circuits, Circuit{"docker.io", role, state})
		}
	}
	m.Upstreams.Watch(func() UpstreamStates { return states })
	for _, port := range []string{"mirror", "auth", "admin"} {
		m.Ports.Opened(port)
		m.Ports.Waits(port, 1)
		for limit := range ConnectionLimits {
			m.Ports.Limited(port, limit)
		}
	}
	for _, port := range []string{"mirror", "auth"} {
		m.Ports.Certificate(port, true, time.Now())
	}
	for _, family := range clientFamilies {
		for _, why := range []string{"limited", "failed", "incomplete", "refused", "unknown_registry", "not_allowed", "cut", "not_found"} {
			m.Bypass.Suspected(family, why)
		}
	}
}
