package fill

import (
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
)

// Status is a running fill at one moment, or a parked one: an ended fill
// whose file stays as a partial file for the next one.
type Status struct {
	Digest     digest.Digest `json:"digest"`
	Host       string        `json:"upstream,omitempty" doc:"Registry that it was asked for at"`                                      // Want.Host; empty for a parked one of public content
	Repository string        `json:"repository,omitempty" doc:"Of the request that began it, for content that not everybody may see"` // Want.Repository
	Place      string        `json:"place,omitempty" doc:"Where its first bytes come from, if not from that registry: peer, s3 or sister"`
	State      string        `json:"state" doc:"waiting, asking, filling, committing or stopping"` // or parked
	Size       int64         `json:"size" doc:"Of the whole; -1 while unknown"`
	Present    int64         `json:"have" doc:"Bytes that are there"` // those of an earlier fill included
	Rate       int64         `json:"rate" doc:"Bytes a second, over the last seconds"`
	Readers    int           `json:"readers" doc:"Clients that read it"`      // or wait for the first answer of its source
	Writers    int           `json:"writers" doc:"Connections that bring it"` // those included that wait for their turn
	Left       *int64        `json:"left_s,omitempty" doc:"Seconds until the end at that rate; absent when that is not known"`
	Since      time.Time     `json:"since"` // when it began; when a parked one ended
}

// left returns how many seconds the rest takes at the present rate; nil when that is
// not known.
func (s *Status) left() *int64 {
	if s.Rate <= 0 || s.Size < s.Present {
		return nil
	}
	left := (s.Size - s.Present + s.Rate - 1) / s.Rate
	return &left
}

// Running returns the running fills, the oldest first. They are looked at one
// after the other, each for a moment and without I/O.
func (s *Fills) Running() []Status {
	s.mu.Lock()
	fills := slices.Collect(maps.Values(s.list))
	s.mu.Unlock() // a fill's mu is not waited for with every opener behind
	all := make([]Status, 0, len(fills))
	for _, f := range fills {
		if status, running := f.status(); running {
			all = append(all, status)
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return a.Since.Compare(b.Since) })
	return all
}

// status returns the fill's status, and whether it still runs.
func (f *Fill) status() (status Status, running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	status = Status{
		Digest: f.want.Digest, State: f.state.String(), Size: max(f.size, -1), Present: f.have.bytes(), Rate: f.speed.perSecond(time.Now()),
		Readers: f.waiting + f.readers, Writers: f.working,
		Host: f.want.Host, Repository: f.want.Repository, Place: f.place, Since: f.since,
	}
	status.Left = status.left()
	return status, f.state <= stateStopping
}

// Parked iterates over the parked fills, in no order. The note of each is read
// from disk when the loop comes to it, and no lock is held. One whose note cannot
// be read is of unknown size, with no bytes present.
func (s *Fills) Parked() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for o := range s.o.Ledger.Objects() {
			if o.Partial && !yield(s.parked(o)) {
				return
			}
		}
	}
}

func (s *Fills) parked(o eviction.Object) Status {
	status := Status{Digest: o.Digest, State: stateParked.String(), Size: -1, Since: o.Used}
	if p, err := s.o.Store.Partial(o.Digest); err == nil {
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
