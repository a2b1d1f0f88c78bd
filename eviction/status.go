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
	Budget    int64 // bytes that everything together may use
	Overhead  int64 // as set by SetOverhead: the index, the ballast
	Reserved  int64 // promised to running fills
	Evicted   int64 // evicted and not yet free
	Partial   int64 // partial fills that may be resumed
	Expected  int64 // before the end of the adoption: not counted yet, but believed to be on disk
	Segments  [2]SegmentStatus
	Evictions Evictions
	Pinned    SegmentStatus // in no segment: never evicted to make room; no share
	Guests    SegmentStatus // in no segment: large objects that other boxes own; those beyond their share go first
}

// Evictions is what was evicted to make room since the start.
type Evictions struct {
	Objects int64
	Bytes   int64
	Unused  time.Duration // for how long the last one had not been used
}

// SegmentStatus is the state of one Segment, its partial fills excluded.
type SegmentStatus struct {
	Objects int
	Bytes   int64
	Share   int64 // bytes of the budget that the other segment's objects never take from it
}

// Held returns how many objects are held and their bytes, the pinned ones
// included.
func (s Status) Held() (objects int, bytes int64) {
	for _, one := range append(s.Segments[:], s.Pinned, s.Guests) {
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
	return Status{
		Budget:   l.limit,
		Overhead: l.overhead,
		Reserved: l.reserved,
		Evicted:  l.evicted,
		Partial:  l.large[0].partial.bytes + l.guests.list.partial.bytes + l.pins.list.partial.bytes,
		Expected: l.adopting.bytes(),
		Segments: [2]SegmentStatus{
			Small: l.small.status(l.smallLimit),
			Large: l.large[0].status(l.limit - l.smallLimit),
		},
		Evictions: l.evictions,
		Pinned:    l.pins.list.status(0),
		Guests:    l.guests.list.status(l.guests.limit),
	}
}

// Object is one object, or one partial fill, that a ledger counts.
type Object struct {
	Digest  digest.Digest
	Size    int64     // bytes of its content
	Used    time.Time // last, in whole seconds
	Segment Segment
	Partial bool
	Pinned  bool
	Guest   bool // another box owns it
}

// OnDisk returns the bytes that the object counts for.
func (o Object) OnDisk() int64 { return onDisk(o.Size) }

// object describes the object at r. l.mu is held.
func (l *Ledger) object(r digests.Ref) Object {
	e := l.objects.At(r)
	o := Object{Digest: l.objects.Digest(r), Size: e.size, Used: time.Unix(int64(e.used), 0), Partial: e.partial, Pinned: e.pinned, Guest: e.guest}
	if e.partial || e.size >= l.smallSize {
		o.Segment = Large
	}
	return o
}

// batch is how many objects are looked at while the ledger is locked.
const batch = 512

// Objects iterates over all objects and partial fills, in no order. The ledger
// is not locked while the loop body runs: what is added meanwhile may be missing,
// and what is visited may have been evicted.
func (l *Ledger) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		some := make([]Object, 0, batch)
		for next := digests.Ref(0); ; {
			some = some[:0]
			l.mu.Lock()
			next = l.objects.Some(next, batch, func(r digests.Ref) { some = append(some, l.object(r)) })
			l.mu.Unlock()
			for _, o := range some {
				if !yield(o) {
					return
				}
			}
			if next == 0 {
				return
			}
		}
	}
}

// Next iterates over the objects that are evicted next when room is made for a
// large object, in that order; none of the small segment within its share, and
// none before the end of the adoption. The ledger is not locked while the loop
// body runs: what is used or evicted meanwhile may be visited all the same.
func (l *Ledger) Next() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		next := l.evictionOrder(false)
		next.preview = true
		for {
			some := l.next(next)
			for _, o := range some {
				if !yield(o) {
					return
				}
			}
			if len(some) < batch {
				return
			}
		}
	}
}

// next returns a batch of the objects that are next in an order.
func (l *Ledger) next(next *order) (objects []Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.settled() {
		return nil
	}
	next.resume()
	for len(objects) < batch {
		r := next.take()
		if r == 0 {
			break
		}
		objects = append(objects, l.object(r))
	}
	return objects
}
