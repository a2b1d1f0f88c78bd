package site

import (
	"fmt"
	"time"

	"hubcap/metrics"
)

// BoxStatus is another box, or this one, at one moment.
type BoxStatus struct {
	Name    string    // as it is configured
	Self    bool      // this box
	Sister  bool      // of another site
	Until   time.Time // when it is asked again; zero if it does not rest
	Failing time.Time // since when it has given no answer; zero if its last one was well
	Why     string    // it rests or fails
	Wrong   string    // what is wrong with its entry, or with the list; empty for nothing
}

// Status returns the boxes in the order of the list, and the sisters after them.
func (s *Site) Status() (all []BoxStatus) {
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
		case seen.alien && !one.Sister:
			one.Wrong = b.name + " is no hubcap of this site: it does not say which boxes it knows"
		case seen.list != s.list && !one.Sister:
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
		place, state := "peer", "answers"
		if b.Sister {
			place = "sister"
		}
		if !b.Failing.IsZero() {
			state = "fails"
		}
		if !b.Self {
			count[[2]string{place, state}]++
		}
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
func (b *box) status(now time.Time) BoxStatus {
	one := BoxStatus{Name: b.name, Self: b.self, Sister: b.sister()}
	b.mu.Lock()
	defer b.mu.Unlock()
	one.Failing = b.failing
	if b.failure != nil {
		one.Why = b.failure.Error()
	}
	if now.Before(b.until) {
		one.Until, one.Why = b.until, b.why.Error()
	}
	return one
}
