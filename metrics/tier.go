package metrics

import "github.com/prometheus/client_golang/prometheus"

// TierRead is how a request for a blob of the S3 tier ended.
type TierRead int

// The ends of reads.
const (
	TierFound  TierRead = iota // bytes came
	TierAbsent                 // the bucket does not have it
	TierFailed                 // no answer, another one, or one that broke off after it was found
	TierWrong                  // what came is not the blob
)

var tierReads = []string{"found", "absent", "failed", "wrong"}

// TierWrite is what became of a blob that was to be written.
type TierWrite int

// What may become of it.
const (
	TierStored   TierWrite = iota // it is in the bucket now
	TierPresent                   // it was there before
	TierGone                      // it was not held any more
	TierNotTaken                  // the bucket did not take it
	TierDropped                   // too many waited
)

var tierWrites = []string{"stored", "present", "gone", "failed", "dropped"}

// TierDirection is where bytes go.
type TierDirection int

// The directions.
const (
	TierReceived TierDirection = iota
	TierSent
)

var tierDirections = []string{"received", "sent"}

// Tier counts what the S3 tier does.
type Tier struct{ reads, writes, bytes []prometheus.Counter }

func newTier(registry prometheus.Registerer) *Tier {
	return &Tier{
		reads:  counters(registry, "tier_reads_total", "Requests to the bucket of the S3 tier for a blob, or a part of one: found, absent, failed (no answer, an error, or one that was found and broke off), wrong (not the blob).", "result", tierReads),
		writes: counters(registry, "tier_writes_total", "Blobs for the bucket of the S3 tier: stored, present (it was there), gone (evicted before), failed (not taken, after a few tries), dropped (too many waited).", "result", tierWrites),
		bytes:  counters(registry, "tier_bytes_total", "Bytes of blobs received from the bucket of the S3 tier, and sent to it.", "direction", tierDirections),
	}
}

// Read counts a request for a blob.
func (t *Tier) Read(how TierRead) { t.reads[how].Inc() }

// Wrote counts a blob that was to be written.
func (t *Tier) Wrote(how TierWrite) { t.writes[how].Inc() }

// Moved counts n bytes.
func (t *Tier) Moved(where TierDirection, n int64) { t.bytes[where].Add(float64(n)) }
