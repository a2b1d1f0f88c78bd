package metrics

import "slices"

// Totals are counters of the whole box since the start.
type Totals struct {
	ClientBytes   float64 // body bytes of content sent to clients
	UpstreamBytes float64 // body bytes received from upstreams
	Requests      float64 // for manifests and blobs that are there
	Cached        float64 // of these, answered without a download of their own
	Joined        float64 // of these, along with the download of another request
	Stale         float64 // of these, because the upstream failed
}

// Results of requests that are answered from the cache, and of those that are
// neither for what is cached nor for what could be.
var (
	fromCache  = []string{"hit", "confirmed", "stale", "joined"}
	notCounted = []string{"refused", "not_found", "forwarded", "local"}
)

// Totals returns the present counters; ok is false if they cannot be read. It
// costs as much as a scrape.
func (m *Metrics) Totals() (t Totals, ok bool) {
	families, err := m.registry.Gather()
	if err != nil {
		return t, false
	}
	for _, family := range families {
		for _, series := range family.GetMetric() {
			value, labels := series.GetCounter().GetValue(), make(map[string]string)
			for _, l := range series.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			switch family.GetName() {
			case namespace + "_client_bytes_total":
				t.ClientBytes += value
			case namespace + "_upstream_bytes_total":
				t.UpstreamBytes += value
			case namespace + "_requests_total":
				if kind := labels["kind"]; kind == "manifest" || kind == "blob" {
					t.answered(labels["result"], value)
				}
			}
		}
	}
	return t, true
}

// answered adds answers of one result.
func (t *Totals) answered(result string, n float64) {
	if slices.Contains(notCounted, result) {
		return
	}
	t.Requests += n
	if slices.Contains(fromCache, result) {
		t.Cached += n
	}
	switch result {
	case "joined":
		t.Joined += n
	case "stale":
		t.Stale += n
	}
}
