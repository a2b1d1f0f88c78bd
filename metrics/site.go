package metrics

import "github.com/prometheus/client_golang/prometheus"

// Place is where content is had nearer than at its registry.
type Place int

// The places.
const (
	PlacePeer   Place = iota // another box of the site
	PlaceSister              // a box of another site
)

var placeNames = []string{"peer", "sister"}

func (p Place) String() string { return placeNames[p] }

// Site counts what comes from places nearer than a registry.
type Site struct {
	asked, failed, bytes []prometheus.Counter
}

func newSite(registry prometheus.Registerer) *Site {
	return &Site{
		asked:  counters(registry, "place_requests_total", "Requests to places that are nearer than a registry: peer is another box of the site, sister one of another site.", "place", placeNames),
		failed: counters(registry, "place_failures_total", "Failures for which such a place is not asked for a while.", "place", placeNames),
		bytes:  counters(registry, "place_bytes_total", "Bytes received from such places.", "place", placeNames),
	}
}

// Asked counts a request.
func (s *Site) Asked(p Place) { s.asked[p].Inc() }

// Failed counts a failure for which the place rests.
func (s *Site) Failed(p Place) { s.failed[p].Inc() }

// Received counts n bytes.
func (s *Site) Received(p Place, n int) { s.bytes[p].Add(float64(n)) }
