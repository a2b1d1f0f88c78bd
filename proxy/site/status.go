package site

import (
	"fmt"
	"time"

	"hubcap/metrics"
)

// Box is another box, or this one, at one moment.
type Box struct {
	Name  string    `json:"name" doc:"As the list has it"`
	Kind  string    `json:"kind" enum:"self,peer,sister" doc:"self: this box; peer: of this site; sister: of another site"`
	State string    `json:"state" enum:"answers,rests,fails" doc:"rests: it is not asked for a while; fails: it has given no answer since"`
	Since time.Time `json:"since,omitzero" doc:"Since when it fails"`
	Until time.Time `json:"until,omitzero" doc:"Until when it is not asked"`
	Why   string    `json:"why,omitempty" doc:"It rests or fails"`
	Wrong string    `json:"wrong,omitempty" doc:"What is wrong with its entry, or with the list"`
}

// Status returns the boxes in the order of the list, and the sisters after them.
func (s *Site) Status() (all []Box) {
	if s == nil {
		return nil
	}
	now := s.o.Now()
	first := map[string]string{s.id: "this box"} // by what they say of themselves
	for _, b := range append(s.boxes[:len(s.boxes):len(s.boxes)], s.sisters...) {
		one := b.status(now)
		b.mu.Lock()
		seen := b.seen
		b.mu.Unlock()
		switch before, known := first[seen.id]; {
		case b.self || seen == (seenNever):
		case known && seen.id != "":
			one.Wrong = fmt.Sprintf("%s is %s under another name", b.name, before)
		case seen.alien && !b.sister():
			one.Wrong = b.name + " is no hubcap of this site: it does not say which boxes it knows"
		case seen.list != s.list && !b.sister():
			one.Wrong = b.name + " has another HUBCAP_SITE than this box"
		}
		if _, known := first[seen.id]; !known && seen.id != "" {
			first[seen.id] = b.name
		}
		all = append(all, one)
	}
	return all
}

// Export sets metrics.PlaceBoxes.
func (s *Site) Export(set metrics.Set) {
	count := map[[2]string]float64{}
	for _, b := range s.Status() {
		state := "answers"
		if !b.Since.IsZero() {
			state = "fails"
		}
		count[[2]string{b.Kind, state}]++
	}
	for _, place := range []string{"peer", "sister"} {
		for _, state := range []string{"answers", "fails"} {
			set(metrics.PlaceBoxes, count[[2]string{place, state}], place, state)
		}
	}
}

// seenNever is of a box that has never answered a look.
var seenNever seen

// status is what the box itself knows.
func (b *box) status(now time.Time) Box {
	one := Box{Name: b.name, Kind: "peer", State: "answers"}
	switch {
	case b.self:
		one.Kind = "self"
	case b.sister():
		one.Kind = "sister"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	one.Since = b.failing
	if b.failure != nil {
		one.Why = b.failure.Error()
	}
	switch {
	case now.Before(b.until):
		one.State, one.Until, one.Why = "rests", b.until, b.why.Error()
	case !b.failing.IsZero():
		one.State = "fails"
	}
	return one
}
