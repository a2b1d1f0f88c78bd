package eviction

import (
	"math"
	"time"

	"hubcap/eviction/digests"
)

// entry is one object, or what has come of one. A million of them are in
// memory.
type entry struct {
	size         int64       // bytes
	used         moment      // last
	newer, older digests.Ref // in its segment
	partial      bool
}

// moment is a time in seconds since 1970. 32 bits of them last until 2106.
type moment uint32

func momentOf(t time.Time) moment { return moment(min(max(t.Unix(), 0), math.MaxUint32)) }

// since is the time from m to now, none where m is yet to come: the clock may
// have been set.
func (m moment) since(now moment) time.Duration {
	return time.Duration(max(now, m)-m) * time.Second
}

// amount is so many objects of so many bytes.
type amount struct {
	objects int
	bytes   int64
}

// segment is one list of objects in the order of their last use. It counts
// bytes on disk; the list itself is never full.
type segment struct {
	objects        *digests.Table[entry] // of all segments
	newest, oldest digests.Ref
	all            amount
	partial        amount // of that, what is no whole object
}

// add puts an object that is in no segment to the front.
func (s *segment) add(r digests.Ref) {
	s.link(r)
	s.count(s.objects.At(r), 1)
}

func (s *segment) remove(r digests.Ref) {
	s.unlink(r)
	s.count(s.objects.At(r), -1)
}

// touch makes an object the one that was used last.
func (s *segment) touch(r digests.Ref) {
	if r != s.newest {
		s.unlink(r)
		s.link(r)
	}
}

func (s *segment) link(r digests.Ref) {
	e := s.objects.At(r)
	e.newer, e.older = 0, s.newest
	if s.newest != 0 {
		s.objects.At(s.newest).newer = r
	} else {
		s.oldest = r
	}
	s.newest = r
}

func (s *segment) unlink(r digests.Ref) {
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

// count adds an entry to the account, or with n = -1 takes it off.
func (s *segment) count(e *entry, n int) {
	bytes := onDisk(e.size) * int64(n)
	s.all.objects += n
	s.all.bytes += bytes
	if e.partial {
		s.partial.objects += n
		s.partial.bytes += bytes
	}
}

// whole are the whole objects.
func (s *segment) whole() amount {
	return amount{s.all.objects - s.partial.objects, s.all.bytes - s.partial.bytes}
}
