package eviction

import (
	"math"
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
	used         moment      // last
	newer, older digests.Ref // in its list
	partial      bool
	pinned       bool // and so in Ledger.pins.list
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

// list is the objects of a segment, or those that are pinned, in the order of
// their last use. It has no limit of its own.
type list struct {
	objects        *digests.Table[entry] // of all segments
	newest, oldest digests.Ref
	all            amount
	partial        amount // those of all that are partial fills
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
	if r != s.newest {
		s.unlink(r)
		s.link(r)
	}
}

func (s *list) link(r digests.Ref) {
	e := s.objects.At(r)
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
func (s *list) count(e *entry, n int) {
	bytes := onDisk(e.size) * int64(n)
	s.all.objects += n
	s.all.bytes += bytes
	if e.partial {
		s.partial.objects += n
		s.partial.bytes += bytes
	}
}

// status describes the list, which has this share of the budget.
func (s *list) status(share int64) SegmentStatus {
	return SegmentStatus{Objects: s.all.objects - s.partial.objects, Bytes: s.all.bytes - s.partial.bytes, Share: share}
}
