package eviction

import (
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"
)

// segment is one list of objects in the order of their last use. It counts
// bytes on disk; the list itself is never full.
type segment struct {
	list  *simplelru.LRU[digest.Digest, int64]
	bytes int64
}

func newSegment() segment {
	list, err := simplelru.NewLRU[digest.Digest, int64](math.MaxInt, nil)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return segment{list: list}
}

func (s *segment) add(d digest.Digest, size int64) {
	s.remove(d)
	s.list.Add(d, size)
	s.bytes += onDisk(size)
}

func (s *segment) touch(d digest.Digest) (size int64, held bool) {
	return s.list.Get(d)
}

func (s *segment) remove(d digest.Digest) (size int64, held bool) {
	if size, held = s.list.Peek(d); held {
		s.list.Remove(d)
		s.bytes -= onDisk(size)
	}
	return size, held
}

func (s *segment) oldest() (d digest.Digest, size int64, ok bool) {
	d, size, ok = s.list.RemoveOldest()
	if ok {
		s.bytes -= onDisk(size)
	}
	return d, size, ok
}

func (s *segment) len() int { return s.list.Len() }
