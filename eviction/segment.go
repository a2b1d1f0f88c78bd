package eviction

import (
	"math"
	"math/bits"
	"time"

	"hubcap/eviction/digests"
)

// Segment is one of the two lists that objects are evicted from.
type Segment uint8

// The segments: small objects (manifests, configs) are kept apart from layers.
const (
	Small Segment = iota
	Large
)

// String returns the name of the segment in metrics and the API.
func (s Segment) String() string {
	if s == Small {
		return "small"
	}
	return "large"
}

// entry is one object, or one partial fill. A million of them are in memory.
type entry struct {
	size         int64       // bytes
	turn         uint64      // counts.uses of its list at its last use; or retired
	used         moment      // last
	newer, older digests.Ref // in its list
	partial      bool
	pinned       bool // and so in Ledger.pins.list
	guest        bool // and so in Ledger.guests.list, if it is large and not pinned
}

// moment is a time in seconds since 1970. 32 bits of them last until 2106.
type moment uint32

func momentOf(t time.Time) moment { return moment(min(max(t.Unix(), 0), math.MaxUint32)) }

// since returns the time from m to now, 0 when m is later than now: the clock
// may have been set.
func (m moment) since(now moment) time.Duration {
	return time.Duration(max(now, m)-m) * time.Second
}

// amount is a number of objects and their bytes on disk.
type amount struct {
	objects int
	bytes   int64
}

// counts is what the lists of a segment have together.
type counts struct {
	all     amount
	partial amount // those of all that are partial fills
	uses    uint64 // of its objects so far
}

// Large objects are in four lists by size. The smallest objects of each list are
// sizeStep times as large as those of the list before, and an object is evicted at
// half the age, counted in uses of large objects, of one in the list before: about
// as if size weighed as its square root. Many images of small layers are whole in
// the place of a few of large ones. TestSites compares that with one list.
const (
	sizeLists = 4
	sizeStep  = 1 << sizeBits
	sizeBits  = 2
)

// sizeList returns the list of a large object: 0 for the smallest.
func (l *Ledger) sizeList(size int64) int {
	steps := bits.Len64(uint64(size/max(l.smallSize, 1))) - 1 //nolint:gosec // sizes are not negative
	return min(max(steps, 0)/sizeBits, sizeLists-1)
}

// list is the objects of a segment, or some of them by size, or those that are
// pinned, in the order of their last use. It has no limit of its own.
type list struct {
	objects        *digests.Table[entry] // of all lists
	newest, oldest digests.Ref
	*counts        // of the segment
}

// add puts an object that is in no list to the front.
func (s *list) add(r digests.Ref) {
	s.link(r)
	s.count(s.objects.At(r), 1)
}

func (s *list) remove(r digests.Ref) {
	s.unlink(r)
	s.count(s.objects.At(r), -1)
}

// touch moves an object to the front: it was used last.
func (s *list) touch(r digests.Ref) {
	s.unlink(r)
	s.link(r)
}

// retired is the turn of what is left of an image that is no longer whole. A use
// gives it another one.
const retired = 0

// retire moves an object to the end: it is evicted first.
func (s *list) retire(r digests.Ref) {
	s.unlink(r)
	e := s.objects.At(r)
	e.turn, e.newer, e.older = retired, s.oldest, 0
	if s.oldest != 0 {
		s.objects.At(s.oldest).older = r
	} else {
		s.newest = r
	}
	s.oldest = r
}

func (s *list) link(r digests.Ref) {
	e := s.objects.At(r)
	s.uses++
	e.turn = s.uses
	e.newer, e.older = 0, s.newest
	if s.newest != 0 {
		s.objects.At(s.newest).newer = r
	} else {
		s.oldest = r
	}
	s.newest = r
}

func (s *list) unlink(r digests.Ref) {
	e := s.objects.At(r)
	if e.newer != 0 {
		s.objects.At(e.newer).older = e.older
	} else {
		s.newest = e.older
	}
	if e.older != 0 {
		s.objects.At(e.older).newer = e.newer
	} else {
		s.oldest = e.newer
	}
}

// count adds an entry n times to the amounts; n is 1 or -1.
func (s *counts) count(e *entry, n int) {
	bytes := onDisk(e.size) * int64(n)
	s.all.objects += n
	s.all.bytes += bytes
	if e.partial {
		s.partial.objects += n
		s.partial.bytes += bytes
	}
}

// status describes the segment, which has this share of the budget.
func (s *counts) status(share int64) SegmentStatus {
	return SegmentStatus{Objects: s.all.objects - s.partial.objects, Bytes: s.all.bytes - s.partial.bytes, Share: share}
}
