package site

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/opencontainers/go-digest"
)

// ranked returns all boxes, the owner of d first: those with the highest hash of
// their name and the digest. So a box that leaves or joins moves only what it owns,
// and all boxes with the same list agree without a word. The name is the configured
// one, because addresses change.
func (s *Site) ranked(d digest.Digest) []*box {
	type ranked struct {
		box  *box
		rank uint64
	}
	all := make([]ranked, len(s.boxes))
	for i, b := range s.boxes {
		all[i] = ranked{b, xxhash.Sum64String(b.name + " " + d.String())}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.box.name, b.box.name))
	})
	boxes := make([]*box, len(all))
	for i, one := range all {
		boxes[i] = one.box
	}
	return boxes
}

// before returns the boxes to ask for d before its registry, in this order: those
// that are ranked before this one and do not rest.
func (s *Site) before(d digest.Digest) (boxes []*box) {
	now := s.o.Now()
	for _, b := range s.ranked(d) {
		if b.self {
			break
		}
		if !b.rests(now) {
			boxes = append(boxes, b)
		}
	}
	return boxes
}

// others returns the other boxes of the site that do not rest, the one to hold d first.
func (s *Site) others(d digest.Digest) (boxes []*box) {
	for _, b := range s.awake(s.ranked(d)) {
		if !b.self {
			boxes = append(boxes, b)
		}
	}
	return boxes
}

// awake returns those of all that do not rest.
func (s *Site) awake(all []*box) (boxes []*box) {
	now := s.o.Now()
	for _, b := range all {
		if !b.rests(now) {
			boxes = append(boxes, b)
		}
	}
	return boxes
}
