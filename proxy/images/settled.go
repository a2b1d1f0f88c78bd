package images

import (
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/pull"
)

// inTurn is in how many walks every image is looked at, whatever is known of it.
const inTurn = 24

// settled is an image that needs no look while nothing of it changes: one that is
// ready, or that is not wanted. Of the others, what is missing may come in many ways.
type settled struct {
	outage        Outage // Ready or empty
	named, served digest.Digest
}

// settle notes what was found of an image.
func (i *image) settle(served pull.Outcome, outage Outage) {
	if outage == Gaps || outage == Refused {
		i.settled.Store(nil)
		return
	}
	i.settled.Store(&settled{outage, served.Named, served.Served})
}

// unchanged returns a function that reports whether what was found of an image still
// holds, and what that was: its parts are as they were, its tag names the same, and
// it is wanted as before. It is for one walk. m.walking is held.
func (m *Images) unchanged(terms Terms) func(one *image, now time.Time) (outage Outage, known bool) {
	if !m.usual(terms) {
		return func(*image, time.Time) (Outage, bool) { return "", false }
	}
	m.walks++
	changed, more := m.changed()
	return func(one *image, now time.Time) (Outage, bool) {
		s := one.settled.Load()
		if s == nil || more || one.open.Load() || (one.number+m.walks)%inTurn == 0 ||
			within(one.at(), now, terms.Days) != (s.outage == Ready) || changed[s.named] || changed[s.served] {
			return "", false
		}
		return s.outage, one.tag == "" || s.outage == "" || m.stillNames(one, s.named)
	}
}

// changed returns the objects that were stored or lost since the last walk, and all
// manifests that they can be reached from; more says that these are not all.
func (m *Images) changed() (all map[digest.Digest]bool, more bool) {
	some, more := m.o.Cache.Changed()
	all = make(map[digest.Digest]bool, 2*len(some))
	for d := range some {
		if all[d] {
			continue
		}
		all[d] = true
		for _, manifest := range m.o.Cache.Indexes(d) {
			all[manifest] = true
		}
	}
	return all, more
}

// stillNames reports whether a tag would be answered in an outage as before.
func (m *Images) stillNames(one *image, named digest.Digest) bool {
	repo, err := m.repository(one)
	if err != nil || repo.View.Restricted() {
		return false
	}
	o, known := repo.Outlook(one.tag)
	return known && o.Allowed && o.Digest == named
}
