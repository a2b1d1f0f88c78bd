package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Segment is one of the two lists that the cache evicts from.
type Segment uint8

// The segments: small objects (manifests, configs) are kept apart from layers.
const (
	SegmentSmall Segment = iota
	SegmentLarge
	segments
)

var segmentNames = [segments]string{"small", "large"}

func (s Segment) String() string { return segmentNames[s] }

// SpaceStats is what the ledger says of the disk at one moment, in bytes.
type SpaceStats struct {
	Budget   int64 // what may never be exceeded
	Overhead int64 // the index
	Reserved int64 // promised to running fills
	Doomed   int64 // evicted, not yet given back by the file system
	Partial  int64 // downloads that broke off and may go on
	Bytes    [2]int64
	Objects  [2]int
}

// ages are the buckets of the time since last use, in seconds: an hour means
// that one image pushes out the other, months that the cache is large enough.
var ages = []float64{
	minute, 5 * minute, 15 * minute, hour, 4 * hour, 12 * hour,
	day, 3 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day,
}

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// Space counts what the cache holds, what it was asked for and what had to go.
type Space struct {
	registry  prometheus.Registerer
	hits      [segments]prometheus.Counter
	misses    [segments]prometheus.Counter
	ages      [segments]prometheus.Observer
	evictions []prometheus.Counter
	evicted   []prometheus.Counter
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
	s := &Space{
		registry:  registry,
		evictions: counters(registry, "evictions_total", "Objects evicted to make room.", "segment", segmentNames[:]),
		evicted:   counters(registry, "evicted_bytes_total", "Bytes evicted to make room.", "segment", segmentNames[:]),
	}
	for seg, name := range segmentNames {
		s.hits[seg] = lookups.WithLabelValues(name, "hit")
		s.misses[seg] = lookups.WithLabelValues(name, "miss")
		s.ages[seg] = age.WithLabelValues(name)
	}
	return s
}

// Looked notes that an object was asked for, and whether it was held.
func (s *Space) Looked(seg Segment, held bool) {
	if held {
		s.hits[seg].Inc()
	} else {
		s.misses[seg].Inc()
	}
}

// Evicted notes an object of size bytes that had to go, unused for the time
// age.
func (s *Space) Evicted(seg Segment, size int64, age time.Duration) {
	s.evictions[seg].Inc()
	s.evicted[seg].Add(float64(size))
	s.ages[seg].Observe(age.Seconds())
}

// Watch exports what stats says at each scrape. It is called once.
func (s *Space) Watch(stats func() SpaceStats) {
	s.registry.MustRegister(&spaceCollector{stats: stats})
}

// spaceCollector reads the ledger once a scrape, so that the figures of one
// scrape belong together.
type spaceCollector struct {
	stats func() SpaceStats
}

var (
	budgetDesc  = prometheus.NewDesc("hubcap_cache_budget_bytes", "Bytes that the cache may use on disk.", nil, nil)
	bytesDesc   = prometheus.NewDesc("hubcap_cache_bytes", "Bytes that the cache uses on disk: small and large objects, partial fills, reserved (for running fills), doomed (evicted, not yet freed), index.", []string{"what"}, nil)
	objectsDesc = prometheus.NewDesc("hubcap_cache_objects", "Cached objects.", []string{"segment"}, nil)
)

func (c *spaceCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- budgetDesc
	ch <- bytesDesc
	ch <- objectsDesc
}

func (c *spaceCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	set := func(desc *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), labels...)
	}
	set(budgetDesc, s.Budget)
	set(bytesDesc, s.Overhead, "index")
	set(bytesDesc, s.Reserved, "reserved")
	set(bytesDesc, s.Doomed, "doomed")
	set(bytesDesc, s.Partial, "partial")
	for seg := range segments {
		set(bytesDesc, s.Bytes[seg], segmentNames[seg])
		set(objectsDesc, int64(s.Objects[seg]), segmentNames[seg])
	}
}
