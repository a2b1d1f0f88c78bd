package metrics

import "github.com/prometheus/client_golang/prometheus"

// The reasons for which a fill stores no blob, and for which a blob is streamed
// and not stored, as cache names them.
var (
	fillFailureNames = []string{"upstream", "digest", "disk", "stopped", "panic"}
	uncachedNames    = []string{"too_large", "no_space", "disk", "restricted"}
)

// Fills counts fills. A fill is one download into the cache.
type Fills struct {
	started  prometheus.Counter
	joined   prometheus.Counter
	resumed  prometheus.Counter
	taken    prometheus.Counter
	finished prometheus.Counter
	failed   map[string]prometheus.Counter
	uncached map[string]prometheus.Counter
	index    prometheus.Counter
}

func newFills(registry prometheus.Registerer) *Fills {
	return &Fills{
		started:  counter(registry, "fills_started_total", "Fills begun."),
		joined:   counter(registry, "fills_joined_total", "Client requests that read from a fill that another request had begun."),
		resumed:  counter(registry, "fills_resumed_total", "Times a fill went on after a broken connection, or from a partial fill on disk."),
		taken:    counter(registry, "fills_taken_over_total", "Pieces of a fill that another connection finished, because the first one had stalled or would have been too late for a reader."),
		finished: counter(registry, "fills_finished_total", "Fills whose digest was right and whose blob was stored."),
		failed:   countersByName(registry, "fills_failed_total", "Fills that stored no blob, by reason.", "reason", fillFailureNames),
		uncached: countersByName(registry, "uncached_total", "Blobs streamed to a client and not stored, by reason: too_large (HUBCAP_MAX_BLOB), no_space (no room in the cache or the file system), disk (a file could not be opened or written), restricted (restricted content of another registry).", "reason", uncachedNames),
		index:    counter(registry, "index_errors_total", "Failed reads and writes of the index. Blobs are not affected; tags and the order of last use may be lost."),
	}
}

// Started notes a fill that begins.
func (f *Fills) Started() { f.started.Inc() }

// Joined counts a request that joins a fill of another one.
func (f *Fills) Joined() { f.joined.Inc() }

// Resumed counts a continuation after a broken connection, or of a partial fill.
func (f *Fills) Resumed() { f.resumed.Inc() }

// TakenOver counts n pieces whose rest another connection fetches.
func (f *Fills) TakenOver(n int) { f.taken.Add(float64(n)) }

// Finished notes a fill whose blob is kept.
func (f *Fills) Finished() { f.finished.Inc() }

// Failed counts a fill that stored no blob; why is one of a closed set: upstream,
// digest, disk, stopped, panic.
func (f *Fills) Failed(why string) { f.failed[why].Inc() }

// Uncached counts a response whose blob is streamed and not stored; why is one of
// a closed set: too_large, no_space, disk, restricted.
func (f *Fills) Uncached(why string) { f.uncached[why].Inc() }

// IndexFailed counts a failed read or write of the index.
func (f *Fills) IndexFailed() { f.index.Inc() }
