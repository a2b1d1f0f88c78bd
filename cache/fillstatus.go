package cache

import (
	"iter"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
)

// FillStatus is a running fill at one moment, or a parked one: an ended fill
// whose file stays as a partial file for the next one.
type FillStatus struct {
	Digest     digest.Digest
	State      string    // waiting, asking, filling, committing, stopping or parked
	Size       int64     // of the blob in bytes; negative while unknown
	Present    int64     // bytes in the file, those of an earlier fill included
	Rate       int64     // bytes a second that come from the source, averaged over some seconds
	Readers    int       // clients that read it, or wait for the first answer of its source
	Writers    int       // connections, those included that wait for their turn
	Host       string    // Want.Host of the request that began it; empty for a parked one of public content
	Repository string    // Want.Repository of that request; empty for public content
	Since      time.Time // when it began; when a parked one ended
}

// Fills returns the running fills, the oldest first. They are looked at one
// after the other, each for a moment and without I/O.
func (c *Cache) Fills() []FillStatus {
	c.mu.Lock()
	fills := make([]*fill, 0, len(c.fills))
	for _, f := range c.fills {
		fills = append(fills, f)
	}
	c.mu.Unlock() // a fill's mu is not waited for with every opener behind
	all := make([]FillStatus, 0, len(fills))
	for _, f := range fills {
		if status, running := f.status(); running {
			all = append(all, status)
		}
	}
	slices.SortFunc(all, func(a, b FillStatus) int { return a.Since.Compare(b.Since) })
	return all
}

// status returns the fill's status, and whether it still runs.
func (f *fill) status() (status FillStatus, running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FillStatus{
		Digest: f.want.Digest, State: f.state.String(), Size: f.size, Present: f.have.bytes(), Rate: f.speed.perSecond(time.Now()),
		Readers: f.waiting + f.readers, Writers: f.working,
		Host: f.want.Host, Repository: f.want.Repository, Since: f.since,
	}, f.state <= stateStopping
}

// Parked iterates over the parked fills, in no order. The note of each is read
// from disk when the loop comes to it, and no lock is held. One whose note cannot
// be read is of unknown size, with no bytes present.
func (c *Cache) Parked() iter.Seq[FillStatus] {
	return func(yield func(FillStatus) bool) {
		for o := range c.o.Ledger.Objects() {
			if o.Partial && !yield(c.parked(o)) {
				return
			}
		}
	}
}

func (c *Cache) parked(o eviction.Object) FillStatus {
	status := FillStatus{Digest: o.Digest, State: stateParked.String(), Size: -1, Since: o.Used}
	if p, err := c.o.Store.Partial(o.Digest); err == nil {
		if n, have, ok := decodeNote(p.Note, p.Size); ok {
			status.Size, status.Present, status.Host = n.Size, have.bytes(), n.From
		}
	}
	return status
}

// meterTime is how far back an ewma looks: older bytes count less than 1/e.
const meterTime = 3 * time.Second

// ewma measures a rate as an exponentially weighted moving average.
type ewma struct {
	rate  float64   // bytes a second at the time of last, before the correction for a short life
	first time.Time // of the first bytes; zero before
	last  time.Time // of the last ones
}

// add notes n bytes that have come.
func (m *ewma) add(n int64, now time.Time) {
	if m.first.IsZero() {
		m.first = now
	}
	m.rate = m.rate*decay(now.Sub(m.last)) + float64(n)/meterTime.Seconds()
	m.last = now
}

// perSecond returns the rate at the time now. For one that is younger than
// meterTime it is the average of its life, taken as at least a tenth of a second.
func (m *ewma) perSecond(now time.Time) int64 {
	if m.first.IsZero() {
		return 0
	}
	life := max(now.Sub(m.first), 100*time.Millisecond)
	return int64(m.rate * decay(now.Sub(m.last)) / (1 - decay(life)))
}

func decay(age time.Duration) float64 { return math.Exp(-age.Seconds() / meterTime.Seconds()) }
