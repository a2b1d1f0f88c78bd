package eviction

import (
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// Status is the state of a Ledger at one moment. All bytes are bytes on disk:
// sizes rounded up to blocks of 4 KiB.
type Status struct {
	Budget   int64 // bytes that everything together may use
	Overhead int64 // as set by SetOverhead: the index, the ballast
	Reserved int64 // promised to running fills
	Evicted  int64 // evicted and not yet free
	Partial  int64 // partial fills that may be resumed
	Expected int64 // before the end of the adoption: not counted yet, but believed to be on disk
	Segments [2]SegmentStatus
}

// SegmentStatus is the state of one Segment, its partial fills excluded.
type SegmentStatus struct {
	Objects int
	Bytes   int64
	Share   int64 // bytes of the budget that the other segment's objects never take from it
}

// Held returns how many objects are held and their bytes, in both segments.
func (s Status) Held() (objects int, bytes int64) {
	for _, one := range s.Segments {
		objects += one.Objects
		bytes += one.Bytes
	}
	return objects, bytes
}

// Used returns the bytes that count against the budget.
func (s Status) Used() int64 {
	_, held := s.Held()
	return held + s.Overhead + s.Reserved + s.Evicted + s.Partial + s.Expected
}

// Status returns the state of the ledger. All its figures are of one moment.
func (l *Ledger) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := func(s *list, share int64) SegmentStatus {
		whole := s.whole()
		return SegmentStatus{Objects: whole.objects, Bytes: whole.bytes, Share: share}
	}
	return Status{
		Budget:   l.limit,
		Overhead: l.overhead,
		Reserved: l.reserved,
		Evicted:  l.evicted,
		Partial:  l.large.partial.bytes,
		Expected: l.adopting.bytes(),
		Segments: [2]SegmentStatus{
			Small: status(&l.small, l.smallLimit),
			Large: status(&l.large, l.limit-l.smallLimit),
		},
	}
}

// Object is one object, or one partial fill, that a ledger counts.
type Object struct {
	Digest  digest.Digest
	Size    int64     // bytes of its content
	Used    time.Time // last, in whole seconds
	Segment Segment
	Partial bool
}

// MaxNext is the most objects that Next visits: it copies them while the ledger
// is locked.
const MaxNext = 8192

// Next iterates over the first n objects that are evicted when room is made for
// a large object, in that order, at most MaxNext. There is none before the end
// of the adoption, and none of the small segment within its share. The objects
// are those of the moment the iteration begins; the ledger is not locked while
// the loop body runs.
func (l *Ledger) Next(n int) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, o := range l.next(min(n, MaxNext)) {
			if !yield(o) {
				return
			}
		}
	}
}

func (l *Ledger) next(n int) (objects []Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopting != nil {
		return nil
	}
	at := map[*list]digests.Ref{&l.small: l.small.oldest, &l.large: l.large.oldest}
	small := l.small.all
	for len(objects) < n {
		from := l.nextList(small, at[&l.large] != 0, false)
		r := at[from]
		if r == 0 {
			break
		}
		e := l.objects.At(r)
		o := Object{
			Digest: l.objects.Digest(r), Size: e.size, Used: time.Unix(int64(e.used), 0),
			Segment: Large, Partial: e.partial,
		}
		if from == &l.small {
			o.Segment = Small
			small = amount{small.objects - 1, small.bytes - onDisk(e.size)}
		}
		objects = append(objects, o)
		at[from] = e.newer
	}
	return objects
}
