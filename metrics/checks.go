package metrics

import "github.com/prometheus/client_golang/prometheus"

// Check is what the verification of a file came to.
type Check uint8

// The verdicts.
const (
	CheckRight      Check = iota
	CheckWrong            // the content does not hash to the digest
	CheckUnreadable       // missing, short or no regular file; or an error of the disk
	checks
)

var checkNames = [checks]string{"right", "wrong", "unreadable"}

// Checks counts verifications of files at rest.
type Checks struct {
	ended    []prometheus.Counter
	scrubbed prometheus.Counter
	due      prometheus.Gauge
}

func newChecks(registry prometheus.Registerer) *Checks {
	return &Checks{
		ended:    counters(registry, "checks_total", "Verifications of stored files: the content was right, was wrong, or could not be read.", "verdict", checkNames[:]),
		scrubbed: counter(registry, "scrubbed_bytes_total", "Bytes that the scrubber has read to verify stored files."),
		due:      gauge(registry, "scrub_due_objects", "Objects that the scrubber has yet to verify in its present round."),
	}
}

// Ended notes a verdict.
func (c *Checks) Ended(verdict Check) { c.ended[verdict].Inc() }

// Scrubbed notes n bytes that the scrubber reads.
func (c *Checks) Scrubbed(n int) { c.scrubbed.Add(float64(n)) }

// Due notes how many objects wait for the scrubber.
func (c *Checks) Due(n int) { c.due.Set(float64(n)) }
