package metrics

import "github.com/prometheus/client_golang/prometheus"

// FillFailure is why a fill ended without a blob to keep.
type FillFailure uint8

// The ways in which a fill fails.
const (
	FillUpstream FillFailure = iota // the upstream failed, stalled or lost the blob
	FillDigest                      // the bytes do not hash to the digest
	FillDisk                        // the disk failed or filled up
	FillStopped                     // hubcap shut down
	FillPanic                       // a bug
	fillFailures
)

var fillFailureNames = [fillFailures]string{"upstream", "digest", "disk", "stopped", "panic"}

func (f FillFailure) String() string { return fillFailureNames[f] }

// Bypass is why bytes were streamed through without being kept.
type Bypass uint8

// The reasons not to keep what was fetched.
const (
	BypassTooLarge Bypass = iota // above the largest blob that is kept
	BypassNoSpace                // the budget or the free-space floor leaves no room
	BypassDisk                   // the disk refused the file
	BypassClosed                 // the file is for others, until the source has given it
	bypasses
)

var bypassNames = [bypasses]string{"too_large", "nospace", "disk", "closed"}

func (b Bypass) String() string { return bypassNames[b] }

// Fills counts downloads into the cache.
type Fills struct {
	started  prometheus.Counter
	joined   prometheus.Counter
	resumed  prometheus.Counter
	taken    prometheus.Counter
	finished prometheus.Counter
	failed   []prometheus.Counter
	bypass   []prometheus.Counter
	index    prometheus.Counter
}

func newFills(registry prometheus.Registerer) *Fills {
	return &Fills{
		started:  counter(registry, "fills_started_total", "Fills begun."),
		joined:   counter(registry, "fills_joined_total", "Client requests that read from a fill that another request had begun."),
		resumed:  counter(registry, "fills_resumed_total", "Times a fill went on after a broken connection, or from a partial fill on disk."),
		taken:    counter(registry, "fills_taken_over_total", "Pieces of a fill that another connection finished, because the first one had stalled or would have been too late for a reader."),
		finished: counter(registry, "fills_finished_total", "Fills whose digest was right and whose blob was stored."),
		failed:   counters(registry, "fills_failed_total", "Fills that stored no blob, by reason.", "reason", fillFailureNames[:]),
		bypass:   counters(registry, "cache_bypass_total", "Blobs streamed to a client and not stored, by reason: too_large (HUBCAP_MAX_BLOB), nospace, disk (a file could not be opened or written), closed (restricted content of another registry).", "reason", bypassNames[:]),
		index:    counter(registry, "index_errors_total", "Failed reads and writes of the index. Blobs are not affected; tags and the order of last use may be lost."),
	}
}

// Started notes a fill that begins.
func (f *Fills) Started() { f.started.Inc() }

// Joined notes a reader that follows a fill it did not begin.
func (f *Fills) Joined() { f.joined.Inc() }

// Resumed notes a fill that goes on after a broken connection.
func (f *Fills) Resumed() { f.resumed.Inc() }

// TakenOver notes pieces of a fill whose rest another connection brings.
func (f *Fills) TakenOver(n int) { f.taken.Add(float64(n)) }

// Finished notes a fill whose blob is kept.
func (f *Fills) Finished() { f.finished.Inc() }

// Failed notes a fill that leaves nothing behind.
func (f *Fills) Failed(why FillFailure) { f.failed[why].Inc() }

// Bypassed notes an answer that was streamed through without being kept.
func (f *Fills) Bypassed(why Bypass) { f.bypass[why].Inc() }

// IndexFailed notes a read or write of the index that failed.
func (f *Fills) IndexFailed() { f.index.Inc() }
