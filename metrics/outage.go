package metrics

import "github.com/prometheus/client_golang/prometheus"

// Outage counts what pulls would have become in an outage.
type Outage struct{ survived, failed prometheus.Counter }

func newOutage(registry prometheus.Registerer) *Outage {
	all := counters(registry, "outage_shadow_pulls_total", "Pulls of clients, by what would have become of them if all registries had failed at that time: survived (made of hits, confirmed and stale answers only) or failed. A pull is counted ten minutes after its last request, once.", "result", []string{"failed", "survived"})
	return &Outage{failed: all[0], survived: all[1]}
}

// Pull counts a pull.
func (o *Outage) Pull(survived bool) {
	if survived {
		o.survived.Inc()
	} else {
		o.failed.Inc()
	}
}
