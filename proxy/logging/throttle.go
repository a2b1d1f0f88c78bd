package logging

import (
	"sync/atomic"
	"time"
)

// throttleEvery is how often one repeating condition is logged at most.
const throttleEvery = time.Minute

// Throttle limits the log lines about one repeating condition to one a minute.
// The zero value is ready; it is safe for concurrent use.
type Throttle struct {
	last atomic.Int64 // when Allow last returned true, nanoseconds since 1970; 0 for never
}

// Allow reports whether the condition is to be logged now: a minute has passed
// since it last returned true, or the clock has been set back behind that.
func (t *Throttle) Allow(now time.Time) bool {
	last, at := t.last.Load(), now.UnixNano()
	if last != 0 && at >= last && at-last < int64(throttleEvery) {
		return false
	}
	return t.last.CompareAndSwap(last, at)
}
