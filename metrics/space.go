package metrics

import "github.com/prometheus/client_golang/prometheus"

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

// Space counts what the cache holds and what had to go.
type Space struct {
	registry  prometheus.Registerer
	evictions []prometheus.Counter
	evicted   []prometheus.Counter
}

func newSpace(registry prometheus.Registerer) *Space {
	return &Space{
		registry:  registry,
		evictions: counters(registry, "evictions_total", "Objects evicted to make room, by segment.", "segment", segmentNames[:]),
		evicted:   counters(registry, "evicted_bytes_total", "Bytes evicted to make room, by segment.", "segment", segmentNames[:]),
	}
}

// Evicted notes an object of size bytes that had to go.
func (s *Space) Evicted(seg Segment, size int64) {
	s.evictions[seg].Inc()
	s.evicted[seg].Add(float64(size))
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
	bytesDesc   = prometheus.NewDesc("hubcap_cache_bytes", "Bytes that the cache uses on disk, by what they are.", []string{"what"}, nil)
	objectsDesc = prometheus.NewDesc("hubcap_cache_objects", "Objects held, by segment.", []string{"segment"}, nil)
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
