package pins

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
	"hubcap/proxy/reference"
)

// State says whether a pinned image is here.
type State string

// The states.
const (
	Held     State = "held"     // all of it
	Fetching State = "fetching" // what is missing is being fetched
	Missing  State = "missing"  // parts of it, or what its tag names
	Waiting  State = "waiting"  // a line of the pins file that is not pinned: it could not be fetched, or does not fit
)

// Status is a pinned image.
type Status struct {
	Ref          string        `json:"ref"`
	Digest       digest.Digest `json:"digest,omitempty"`    // what the reference names; empty if that is not known
	Platforms    []string      `json:"platforms,omitempty"` // of an index
	Until        time.Time     `json:"until,omitzero"`      // when the pin ends; zero for never
	Note         string        `json:"note,omitempty"`
	By           string        `json:"by,omitempty"` // who set it: file for HUBCAP_PINS_FILE, freeze for a frozen tag
	At           time.Time     `json:"at,omitzero"`  // when it was set
	State        State         `json:"state"`
	Bytes        int64         `json:"bytes"` // of all that is kept for it, the image before among it while that is kept
	Missing      int           `json:"missing"`
	MissingBytes int64         `json:"missing_bytes"`
	Why          string        `json:"why,omitempty"`  // it is not here
	Since        time.Time     `json:"since,omitzero"` // when it was first seen not to be here
	Next         time.Time     `json:"next,omitzero"`  // when it is tried to be fetched again
}

// List returns what is pinned, by reference.
func (p *Pins) List() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Status, 0, len(p.entries)+len(p.wanted))
	for key, e := range p.entries {
		s := Status{
			Ref: e.pin.ref.String(), Digest: e.digest, Platforms: e.platforms, Until: e.pin.Until, Note: e.pin.Note, By: e.pin.By, At: e.pin.At,
			State: Held, Bytes: e.bytes, Missing: e.missing, MissingBytes: e.lost, Why: e.why, Since: e.since,
		}
		if !e.whole() {
			p.explain(&s, key, Missing)
		}
		all = append(all, s)
	}
	for key, one := range p.wanted {
		s := Status{Ref: key, Platforms: one.Platforms, By: one.By, Since: p.file.Read}
		p.explain(&s, key, Waiting)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.By, b.By)) })
	return all
}

// Pinned reports whether an image is pinned, here yet or not. A frozen tag alone
// is not.
func (p *Pins) Pinned(r reference.Reference) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pins[r.String()] != nil || p.wanted[r.String()] != nil
}

// explain says why a pin is in a state other than Held. p.mu is held.
func (p *Pins) explain(s *Status, key string, state State) {
	if s.State = state; p.fetching == key {
		s.State = Fetching
	}
	if last := p.attempts[key]; last != nil {
		s.Next = last.next
		if last.err != nil {
			s.Why = last.err.Error()
		}
	}
}

// Overview is the state of all pins together.
type Overview struct {
	Pins         int        `json:"pins"`              // frozen tags among them
	Bytes        int64      `json:"bytes"`             // of what is kept for them, each object counted once
	MissingBytes int64      `json:"missing_bytes"`     // of what is not here
	Limit        int64      `json:"limit"`             // bytes that may be pinned
	Refused      string     `json:"refused,omitempty"` // why a line of the pins file is not pinned that does not fit
	File         FileStatus `json:"file,omitzero"`
}

// Overview returns the state of all pins together.
func (p *Pins) Overview() Overview {
	limit := limitOf(p.o.Ledger.Status().Budget)
	p.mu.Lock()
	defer p.mu.Unlock()
	o := Overview{Pins: len(p.entries), Bytes: p.bytes, MissingBytes: p.missing, Limit: limit, File: p.file}
	for key := range p.wanted {
		var full *FullError
		if last := p.attempts[key]; last != nil && errors.As(last.err, &full) {
			o.Refused = key + ": " + full.Error()
		}
	}
	o.File.Bad = slices.Clone(o.File.Bad)
	return o
}

// export exports the overview as metrics.
func (p *Pins) export() {
	p.o.Metrics.Watch(func(set metrics.Set) {
		o := p.Overview()
		set(metrics.PinnedBytes, float64(o.Bytes))
		set(metrics.PinnedMissing, float64(o.MissingBytes))
	}, metrics.PinnedBytes, metrics.PinnedMissing)
}
