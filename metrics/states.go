package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// State is a metric that is read at each scrape from what a room returns as its
// Status. What a room can be asked for is not counted a second time here.
type State struct {
	name, help string
	kind       prometheus.ValueType
	labels     []Label
}

// The states of the cache and of its clients, for Watch. Bytes are bytes on disk.
var (
	CacheBudget  = &State{name: "cache_budget_bytes", help: "Bytes that the cache may use on disk."}
	CacheBytes   = &State{name: "cache_bytes", help: "Bytes that the cache uses on disk: small, large and pinned objects, guests (that other boxes of the site own), partial fills, reserved (for running fills), evicted (not yet freed), index.", labels: []Label{{"what", []string{"evicted", "guest", "index", "large", "partial", "pinned", "reserved", "small"}}}}
	CacheObjects = &State{name: "cache_objects", help: "Cached objects; segment pinned are those of either size that are pinned, guest the large ones that other boxes of the site own.", labels: []Label{{"segment", []string{"guest", "large", "pinned", "small"}}}}
	Capacity     = &State{name: "capacity_hit_ratio", help: "Estimated share of the requests, and of their bytes, for what a cache of scale times the present size would have held before the pull. It is absent while it is not known: until more was requested than the cache holds, and while no estimate comes near what was measured.", labels: []Label{{"of", []string{"bytes", "requests"}}, {"scale", []string{"0.25", "0.5", "1", "2", "4", "8"}}}}
	Degraded     = &State{name: "degraded", help: "1 while the disk is in trouble, by reason: read_only (no writes), space (full), inodes (none left), writes (a write failed within the last minute), reads (cached files cannot be read), index (kept in memory only). Cached content is served; new content may be uncached.", labels: []Label{{"reason", []string{"index", "inodes", "read_only", "reads", "space", "writes"}}}}
	FillsRunning = &State{name: "fills_running", help: "Fills that are running. A fill is one download into the cache."}
	FillsWaiting = &State{name: "fills_waiting", help: "Running fills that wait for their turn, because too many run at once."}
	ScrubDue     = &State{name: "scrub_due_objects", help: "Objects that the scrubber has yet to verify in its present round."}
	Scrubbed     = &State{name: "scrubbed_bytes_total", help: "Bytes that the scrubber has read to verify stored files.", kind: prometheus.CounterValue}
	ScrubStarted = &State{name: "scrub_round_start_timestamp_seconds", help: "Start of the scrubber's present or last round, of hubcap before the first round, in seconds since 1970."}
	VerifyWithin = &State{name: "verify_interval_seconds", help: "HUBCAP_VERIFY_INTERVAL: every stored file is verified again within this time."}
	FSSize       = &State{name: "filesystem_size_bytes", help: "Size of the file system of the data directory."}
	FSFree       = &State{name: "filesystem_free_bytes", help: "Bytes of the data directory's file system that hubcap's user may still write."}
	Clients      = &State{name: "clients", help: "Distinct addresses that have asked for content within an hour, a day or seven days; since the start, if that is later. At most 8192 are remembered.", labels: []Label{{"window", []string{"1d", "1h", "7d"}}}}
	Problems     = &State{name: "problems", help: "Problems that exist now; the log and hubcap doctor say which.", labels: []Label{{"severity", []string{"critical", "warning"}}}}
	Tags         = &State{name: "tags", help: "Tags that were pulled and are known, by state: following (the registry), frozen (by an operator), cooling (the registry names a new digest, which waits for its cool-down).", labels: []Label{{"state", []string{"cooling", "following", "frozen"}}}}
	OpenFiles    = &State{name: "cache_open_files", help: "Cached files that readers have open."}
)

// The states of what is pinned, for Watch.
var (
	PinnedBytes   = &State{name: "pinned_bytes", help: "Bytes of what is kept for pinned images and frozen tags, held or missing. At most 80 % of the cache can be pinned."}
	PinnedMissing = &State{name: "pinned_missing_bytes", help: "Bytes that pinned images and frozen tags lack. They are fetched."}
)

// The states of outage readiness, for Watch.
var (
	OutageImages  = &State{name: "outage_images", help: "Images that clients have pulled within HUBCAP_OUTAGE_DAYS, by what would become of them if all registries failed: ready (could be pulled in full), gaps (something is missing), refused (what is held may not be served then). Absent before the first look.", labels: []Label{{"state", []string{"gaps", "ready", "refused"}}}}
	OutageMissing = &State{name: "outage_missing_bytes", help: "Bytes that these images lack, as far as their size is known."}
	OutageChecked = &State{name: "outage_checked_timestamp_seconds", help: "When the images were last looked at, in seconds since 1970."}
)

// PlaceBoxes is the state of the other boxes, for Watch.
var PlaceBoxes = &State{name: "place_boxes", help: "Other boxes that HUBCAP_SITE (peer) and HUBCAP_SISTERS (sister) name, by whether they gave an answer when they were last asked. They are looked at every minute.", labels: []Label{{"place", placeNames}, {"state", []string{"answers", "fails"}}}}

// The states of the S3 tier, for Watch. They are absent without one.
var (
	TierQueue   = &State{name: "tier_queue", help: "Blobs that wait to be written to the bucket of the S3 tier; at most 1000 wait. Absent without a tier, as hubcap_tier_circuit_open."}
	TierMissing = &State{name: "tier_missing", help: "Blobs that this box owns and holds and that the bucket of the S3 tier lacks, as far as is known; they are written behind new ones. Absent before the first comparison, and where the bucket refuses it."}
	TierOpen    = &State{name: "tier_circuit_open", help: "1 while the bucket of the S3 tier fails and is not asked."}
)

// Offline is the state of the whole box, for Watch.
var Offline = &State{name: "offline", help: "1 while no upstream is asked: HUBCAP_OFFLINE is set, or an operator has taken the box offline."}

// states are all of them, for the documentation.
var states = []*State{
	CacheBudget, CacheBytes, CacheObjects, Capacity, Degraded, FillsRunning, FillsWaiting, ScrubDue, Scrubbed, ScrubStarted,
	VerifyWithin, FSSize, FSFree, OpenFiles, Offline, Clients, Problems, Tags,
	PinnedBytes, PinnedMissing, OutageImages, OutageMissing, OutageChecked, PlaceBoxes, TierQueue, TierMissing, TierOpen,
}

// Set gives a State its value at a scrape; labels are the values of its labels,
// in order.
type Set func(s *State, value float64, labels ...string)

// Watch exports the watched states: each scrape calls read, which sets them.
// read is called concurrently. A State is watched once; Watch panics if it is
// watched already.
func (m *Metrics) Watch(read func(set Set), watched ...*State) {
	c := &stateCollector{read: read, descs: make(map[*State]*prometheus.Desc)}
	for _, s := range watched {
		names := make([]string, len(s.labels))
		for i, l := range s.labels {
			names[i] = l.Name
		}
		c.descs[s] = prometheus.NewDesc(namespace+"_"+s.name, s.help, names, nil)
	}
	m.registry.MustRegister(c)
}

// stateCollector reads the states of one room once a scrape, so that the
// figures of one scrape belong together.
type stateCollector struct {
	read  func(set Set)
	descs map[*State]*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	c.read(func(s *State, value float64, labels ...string) {
		kind := s.kind
		if kind == 0 {
			kind = prometheus.GaugeValue
		}
		ch <- prometheus.MustNewConstMetric(c.descs[s], kind, value, labels...)
	})
}

// sampleStates makes a series of every label value of the states.
func (m *Metrics) sampleStates() {
	m.Watch(func(set Set) {
		for _, s := range states {
			for _, labels := range combinations(s.labels) {
				set(s, 0, labels...)
			}
		}
	}, states...)
}

// combinations returns all combinations of the labels' values.
func combinations(labels []Label) [][]string {
	all := [][]string{nil}
	for _, l := range labels {
		var longer [][]string
		for _, before := range all {
			for _, value := range l.Values {
				longer = append(longer, append(slices.Clone(before), value))
			}
		}
		all = longer
	}
	return all
}
