package eviction

import (
	"math"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"
)

// segment is one list of objects in the order of their last use. It counts
// bytes on disk; the list itself is never full.
type segment struct {
	list    *simplelru.LRU[digest.Digest, entry]
	bytes   int64
	partial amount // of that, what is no whole object
}

// entry is one object, or what has come of one.
type entry struct {
	size    int64  // bytes
	used    moment // last
	partial bool
}

// moment is a time in seconds since 1970. 32 bits of them last until 2106, and
// fit where an entry has bytes to spare.
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

func newSegment() segment {
	list, err := simplelru.NewLRU[digest.Digest, entry](math.MaxInt, nil)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return segment{list: list}
}

func (s *segment) add(d digest.Digest, e entry) {
	s.remove(d)
	s.list.Add(d, e)
	s.count(e, 1)
}

// touch looks a whole object up and notes its use.
func (s *segment) touch(d digest.Digest, now moment) (size int64, held bool) {
	e, ok := s.list.Peek(d)
	if !ok || e.partial {
		return 0, false
	}
	e.used = now
	s.list.Add(d, e) // in its own place, which becomes the first
	return e.size, true
}

// holds tells whether the whole of d is there.
func (s *segment) holds(d digest.Digest) bool {
	e, ok := s.list.Peek(d)
	return ok && !e.partial
}

func (s *segment) remove(d digest.Digest) (e entry, there bool) {
	if e, there = s.list.Peek(d); there {
		s.list.Remove(d)
		s.count(e, -1)
	}
	return e, there
}

func (s *segment) oldest() (d digest.Digest, e entry, ok bool) {
	if d, e, ok = s.list.RemoveOldest(); ok {
		s.count(e, -1)
	}
	return d, e, ok
}

// count adds an entry to the account, or with n = -1 takes it off.
func (s *segment) count(e entry, n int) {
	bytes := onDisk(e.size) * int64(n)
	s.bytes += bytes
	if e.partial {
		s.partial.bytes += bytes
		s.partial.objects += n
	}
}

// whole are the whole objects.
func (s *segment) whole() amount {
	return amount{s.list.Len() - s.partial.objects, s.bytes - s.partial.bytes}
}

func (s *segment) len() int { return s.list.Len() }
