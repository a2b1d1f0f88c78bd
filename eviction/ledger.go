// Package eviction decides what is evicted. It knows sizes, the order of last
// use and the budget; it knows neither files nor what a digest names.
//
// An object that is evicted is no longer held, but its bytes count until they
// are free: evict, unlink (its file loses its name), free (its last reader has
// closed it).
//
// Files: ledger.go (the arithmetic, no I/O), order.go (what is evicted next),
// status.go (the read side),
// adoption.go (the start), pinned.go (what is never evicted to make room),
// guests.go (what other boxes own),
// segment.go (one LRU list), janitor.go (has evicted files unlinked, keeps the
// watermarks). The table of objects is in digests.
package eviction

import (
	"errors"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
	"hubcap/metrics"
)

// ErrTooLarge means that an object is larger than the whole cache.
var ErrTooLarge = errors.New("larger than the cache")

// ErrNoRoom means that an object does not fit now: the rest of the budget is
// reserved for running fills, or evicted and not yet free.
var ErrNoRoom = errors.New("no room in the cache")

// block is the least that a file system allocates, in bytes. Sizes are rounded
// up to it, so that a million small manifests count for what they use.
const block = 4096

// LedgerOptions is what a Ledger needs; every field is required.
type LedgerOptions struct {
	Limit      int64   // bytes that everything together may use on disk
	SmallSize  int64   // objects below this many bytes are in the small segment
	SmallShare float64 // share of Limit that large objects never take from small ones
	High, Low  float64 // shares of Limit: sweeping begins above High and ends at Low
	Now        func() time.Time
	Metrics    *metrics.Space
}

// Ledger is the account of the bytes on disk, by size and last use. It does no
// I/O, and its methods are safe for concurrent use. What is evicted follows
// from the order of use, from sizes and from images. Times are for metrics and
// Status, and keep from being evicted with others what was used later: a clock
// that jumps evicts nothing.
//
// Invariant: small + large + guests + pinned (partial fills among them) + reserved +
// evicted + overhead ≤ limit, except for overhead that has grown since the last Reserve,
// and for files that were on disk before and were adopted.
type Ledger struct {
	limit      int64
	smallLimit int64
	smallSize  int64
	high, low  int64
	clock      func() time.Time
	metrics    *metrics.Space

	mu        sync.Mutex // no other lock is taken while it is held, but for those of images
	images    Images     // nil if unknown
	objects   *digests.Table[entry]
	small     list
	large     [sizeLists]list // by size, see sizeList; they share their counts
	pins      pins
	guests    guests
	reserved  int64                   // promised to fills, not committed
	evicted   int64                   // evicted, not yet free
	toUnlink  map[digest.Digest]int64 // evicted, not yet unlinked: bytes on disk
	overhead  int64                   // beside the objects
	evictions Evictions
	adopting  *adoption // nil once everything on disk is counted
}

// NewLedger returns an empty ledger.
func NewLedger(o LedgerOptions) *Ledger {
	share := func(f float64) int64 { return int64(f * float64(o.Limit)) }
	objects := digests.New[entry]()
	l := &Ledger{
		limit:      o.Limit,
		smallLimit: share(o.SmallShare),
		smallSize:  o.SmallSize,
		high:       share(o.High),
		low:        share(o.Low),
		clock:      o.Now,
		metrics:    o.Metrics,
		objects:    objects,
		small:      list{objects: objects, counts: new(counts)},
		pins:       pins{set: digests.New[uint32](), list: list{objects: objects, counts: new(counts)}},
		guests:     guests{limit: share(guestShare), list: list{objects: objects, counts: new(counts)}},
		toUnlink:   make(map[digest.Digest]int64),
	}
	large := new(counts)
	for i := range l.large {
		l.large[i] = list{objects: objects, counts: large}
	}
	return l
}

// Reserve promises size bytes to a fill before its first byte is written. The
// error is nil, ErrTooLarge or ErrNoRoom. Commit, Park or Release ends the
// promise.
func (l *Ledger) Reserve(size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	size = onDisk(size)
	if size > l.limit-l.overhead {
		return ErrTooLarge
	}
	if l.total()+size > l.limit {
		return ErrNoRoom
	}
	l.reserved += size
	return nil
}

// Release takes back a promise of size bytes.
func (l *Ledger) Release(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= onDisk(size)
}

// Commit turns a promise of reserved bytes into the object d of size bytes.
func (l *Ledger) Commit(d digest.Digest, reserved, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= onDisk(reserved)
	l.adopting.noteUsed(d)
	l.add(d, entry{size: size, used: l.now()})
}

// Park turns a promise of size bytes into the partial fill of d. It is not held,
// and is evicted, or pinned, like an object.
func (l *Ledger) Park(d digest.Digest, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= onDisk(size)
	l.adopting.noteUsed(d)
	l.add(d, entry{size: size, used: l.now(), partial: true})
}

// Resume turns the partial fill of d back into a promise of size bytes. ok is
// false when there is none.
func (l *Ledger) Resume(d digest.Digest) (size int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, found := l.objects.Find(d)
	if !found || !l.objects.At(r).partial {
		return 0, false
	}
	e := l.remove(r)
	l.adopting.noteRemoved(d)
	l.reserved += onDisk(e.size)
	return e.size, true
}

// Touch notes that d is used now. It returns the size of d in bytes, and
// reports whether d is held; an evicted object is not.
func (l *Ledger) Touch(d digest.Digest) (size int64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.whole(d)
	if !held {
		return 0, false
	}
	e := l.objects.At(r)
	e.used = l.now()
	l.listOf(e).touch(r)
	l.adopting.noteUsed(d)
	return e.size, true
}

// Holds reports whether d is held. It is no use of d.
func (l *Ledger) Holds(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.whole(d)
	return held
}

// Size returns the size of d in bytes, and reports whether d is held. It is no
// use of d.
func (l *Ledger) Size(d digest.Digest) (size int64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.whole(d)
	if !held {
		return 0, false
	}
	return l.objects.At(r).size, true
}

// Evict evicts d by name, because its content is not to be trusted. It reports
// whether d was held. A pinned d stays pinned, for when it is fetched again.
func (l *Ledger) Evict(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.whole(d)
	if !held {
		return false
	}
	l.countEvicted(d, l.remove(r).size)
	l.adopting.noteRemoved(d)
	return true
}

// Fits reports whether size bytes could be reserved once everything that may be
// evicted for them is free; the small segment's share is not evicted for a large
// object. The error is nil, ErrTooLarge or ErrNoRoom.
func (l *Ledger) Fits(size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	stays := l.reserved + l.pins.list.all.bytes + min(l.guests.list.all.bytes, l.guests.limit)
	if !l.settled() {
		stays = l.total() - l.overhead // nothing is evicted yet
	} else if size >= l.smallSize {
		stays += min(l.small.all.bytes, l.smallLimit)
	}
	switch size = onDisk(size); {
	case size > l.limit-l.overhead:
		return ErrTooLarge
	case size > l.limit-l.overhead-stays:
		return ErrNoRoom
	default:
		return nil
	}
}

// MakeRoom evicts objects until size more bytes fit once
// all that is evicted is free. It returns what it evicted.
func (l *Ledger) MakeRoom(size int64) []digest.Digest {
	if l.Fits(size) != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return digestsOf(l.evict(l.evictionOrder(size < l.smallSize), l.keeps(l.limit-onDisk(size)), math.MaxInt))
}

// Sweep evicts objects down to the low watermark, once the high one is passed. It
// returns what it evicted. The ledger is not locked all the while.
func (l *Ledger) Sweep() (evicted []digest.Digest) {
	if !l.above(l.high) {
		return nil
	}
	for some := range l.evictInBatches(func(*order) bool { return l.total()-l.evicted <= l.low }) {
		evicted = append(evicted, digestsOf(some)...)
	}
	return evicted
}

func (l *Ledger) above(limit int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total()-l.evicted > limit
}

// EvictBytes evicts objects until they have at least some bytes on disk, as Next
// says. It iterates over what it evicts, a batch at a time; the ledger is not
// locked while the loop body runs.
func (l *Ledger) EvictBytes(bytes int64) iter.Seq[[]Object] {
	return l.evictInBatches(func(next *order) bool { return next.bytes >= bytes })
}

// evictInBatches evicts objects in one order until it is enough. enough is called
// while the ledger is locked.
func (l *Ledger) evictInBatches(enough func(*order) bool) iter.Seq[[]Object] {
	return func(yield func([]Object) bool) {
		next := l.evictionOrder(false)
		for {
			l.mu.Lock()
			some := l.evict(next, func() bool { return enough(next) }, batch)
			l.mu.Unlock()
			if len(some) > 0 && !yield(some) || len(some) < batch {
				return
			}
		}
	}
}

// keeps returns a function that reports whether at most some bytes stay. l.mu is
// held when it is called.
func (l *Ledger) keeps(bytes int64) (enough func() bool) {
	return func() bool { return l.total()-l.evicted <= bytes }
}

// Evictable returns how many bytes could still be freed in the file system.
func (l *Ledger) Evictable() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.settled() {
		return l.bytesToUnlink()
	}
	return l.bytesToUnlink() + l.small.all.bytes + l.large[0].all.bytes + l.guests.list.all.bytes
}

// Shrink evicts objects until size bytes wait to be
// unlinked, or nothing is left. It returns what it evicted.
func (l *Ledger) Shrink(size int64) []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return digestsOf(l.evict(l.evictionOrder(true), l.keeps(l.total()-l.evicted-(size-l.bytesToUnlink())), math.MaxInt))
}

// bytesToUnlink returns the bytes of ToUnlink. l.mu is held.
func (l *Ledger) bytesToUnlink() (bytes int64) {
	for _, n := range l.toUnlink {
		bytes += n
	}
	return bytes
}

// ToUnlink returns what is evicted and not yet unlinked.
func (l *Ledger) ToUnlink() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.toUnlink))
}

// evict evicts objects in an order until it is enough, and at most some. l.mu is
// held.
func (l *Ledger) evict(next *order, enough func() bool, some int) (evicted []Object) {
	if !l.settled() {
		return nil
	}
	next.resume()
	for now := l.now(); len(evicted) < some && !enough(); {
		r := next.take()
		if r == 0 {
			break
		}
		o := l.object(r)
		e := l.remove(r)
		l.countEvicted(o.Digest, e.size)
		evicted = append(evicted, o)
		l.evictions = Evictions{l.evictions.Objects + 1, l.evictions.Bytes + e.size, e.used.since(now)}
		l.metrics.Evicted(l.Segment(e.size).String(), e.size, e.used.since(now))
	}
	next.retire()
	return evicted
}

func digestsOf(objects []Object) (all []digest.Digest) {
	for _, o := range objects {
		all = append(all, o.Digest)
	}
	return all
}

// countEvicted counts d as evicted. l.mu is held.
func (l *Ledger) countEvicted(d digest.Digest, size int64) {
	l.evicted += onDisk(size)
	l.toUnlink[d] += onDisk(size)
}

// Evicted reports whether d is evicted and not yet unlinked, and returns how
// many bytes that is to free.
func (l *Ledger) Evicted(d digest.Digest) (size int64, evicted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, evicted = l.toUnlink[d]
	return size, evicted
}

// Unlinked notes that the file of the evicted d has no name any more. Its bytes
// still count: a reader may have it open.
func (l *Ledger) Unlinked(d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.toUnlink, d)
}

// Freed notes that size bytes of an unlinked file are free.
func (l *Ledger) Freed(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evicted -= onDisk(size)
}

// SetOverhead sets the bytes on disk beside the objects, such as the index.
func (l *Ledger) SetOverhead(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.overhead = size
}

// total returns every byte that counts. l.mu is held.
func (l *Ledger) total() int64 {
	return l.small.all.bytes + l.large[0].all.bytes + l.guests.list.all.bytes + l.pins.list.all.bytes + l.reserved + l.evicted + l.overhead + l.adopting.bytes()
}

// whole finds an object that is not a partial fill. l.mu is held.
func (l *Ledger) whole(d digest.Digest) (r digests.Ref, held bool) {
	r, held = l.objects.Find(d)
	return r, held && !l.objects.At(r).partial
}

// add counts an object as the one used last, in place of what was counted for
// its digest. l.mu is held.
func (l *Ledger) add(d digest.Digest, e entry) {
	if before, found := l.objects.Find(d); found {
		l.remove(before)
	}
	e.pinned, e.guest = l.pinned(d), l.isGuest(d, e.size)
	r := l.objects.Add(d)
	*l.objects.At(r) = e
	l.listOf(&e).add(r)
}

// remove takes an object off the account. l.mu is held.
func (l *Ledger) remove(r digests.Ref) entry {
	e := *l.objects.At(r)
	l.listOf(&e).remove(r)
	l.objects.Remove(r)
	return e
}

// listOf returns the list an entry is in: partial fills are large.
func (l *Ledger) listOf(e *entry) *list {
	if e.pinned {
		return &l.pins.list
	}
	if e.size < l.smallSize && !e.partial {
		return &l.small
	}
	if e.guest {
		return &l.guests.list
	}
	return &l.large[l.sizeList(e.size)]
}

// Segment returns the segment of an object of size bytes.
func (l *Ledger) Segment(size int64) Segment {
	if size < l.smallSize {
		return Small
	}
	return Large
}

func (l *Ledger) now() moment { return momentOf(l.clock()) }

// onDisk rounds a length up to whole blocks.
func onDisk(size int64) int64 {
	return (size + block - 1) / block * block
}
