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
