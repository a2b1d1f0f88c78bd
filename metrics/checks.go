package metrics

import "github.com/prometheus/client_golang/prometheus"

// Check is the result of the verification of a file.
type Check uint8

// The results.
const (
	CheckRight      Check = iota
	CheckWrong            // the content does not hash to the digest
	CheckUnreadable       // missing, short or no regular file; or an error of the disk
	checks
)

var checkNames = [checks]string{"right", "wrong", "unreadable"}

// Checks counts verifications of stored files.
type Checks struct {
	ended []prometheus.Counter
}

func newChecks(registry prometheus.Registerer) *Checks {
	return &Checks{
		ended: counters(registry, "verifications_total", "Verifications of stored files: the content was right, was wrong, or could not be read.", "result", checkNames[:]),
	}
}

// Ended notes a verification with its result.
func (c *Checks) Ended(result Check) { c.ended[result].Inc() }
