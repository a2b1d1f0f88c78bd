package metrics

import "github.com/prometheus/client_golang/prometheus"

// Log exports how many lines of the log were lost; lost is called at each
// scrape. Log is called once.
func (m *Metrics) Log(lost func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "log_lines_lost_total",
		Help: "Lines of the log that were dropped, because standard error was not read in time or could not be written.",
	}, func() float64 { return float64(lost()) }))
}

// Build exports which build this is: its version, and the commit it was built
// from. Build is called once.
func (m *Metrics) Build(version, revision string) {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info",
		Help: "1, with the version of hubcap and the commit that it was built from.",
	}, []string{"version", "revision"})
	info.WithLabelValues(version, revision).Set(1)
	m.registry.MustRegister(info)
}
