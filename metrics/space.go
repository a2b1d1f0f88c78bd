package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// segmentNames are the segments of the cache: small objects (manifests,
// configs) are kept apart from layers.
var segmentNames = []string{"large", "small"}

// ages are the buckets of the time since last use, in seconds: an hour means
// that images push each other out, months that the cache is large enough.
var ages = []float64{
	minute, 5 * minute, 15 * minute, hour, 4 * hour, 12 * hour,
	day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day,
}

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// Space counts lookups in the cache, and evictions.
type Space struct {
	segments map[string]*segment
}

// segment holds the counters of one segment of the cache.
type segment struct {
	hits, misses, evictions, evicted prometheus.Counter
	ages                             prometheus.Observer
}

func newSpace(registry prometheus.Registerer) *Space {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "cache_lookups_total",
		Help: "GET answers with content, by whether it was cached: hit, or miss (also when another client's fill was running, and for uncached content). Segment small is objects below 1 MiB.",
	}, []string{"segment", "result"})
	age := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "eviction_age_seconds",
		Help:    "Seconds from the last use of an object to its eviction. Hours call for a larger cache, months do not.",
		Buckets: ages,
	}, []string{"segment"})
	registry.MustRegister(lookups, age)
	evictions := counters(registry, "evictions_total", "Objects evicted to make room.", "segment", segmentNames)
	evicted := counters(registry, "evicted_bytes_total", "Bytes evicted to make room.", "segment", segmentNames)
	s := &Space{segments: make(map[string]*segment)}
	for i, name := range segmentNames {
		s.segments[name] = &segment{
			hits: lookups.WithLabelValues(name, "hit"), misses: lookups.WithLabelValues(name, "miss"),
			evictions: evictions[i], evicted: evicted[i], ages: age.WithLabelValues(name),
		}
	}
	return s
}

// Looked notes a lookup of an object in a segment (small or large), and whether
// it was held.
func (s *Space) Looked(segment string, held bool) {
	if held {
		s.segments[segment].hits.Inc()
	} else {
		s.segments[segment].misses.Inc()
	}
}

// Evicted notes the eviction of an object of size bytes from a segment (small
// or large), and the time since its last use.
func (s *Space) Evicted(segment string, size int64, age time.Duration) {
	one := s.segments[segment]
	one.evictions.Inc()
	one.evicted.Add(float64(size))
	one.ages.Observe(age.Seconds())
}
