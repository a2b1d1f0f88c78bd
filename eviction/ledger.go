// Package eviction decides what must go. It knows sizes, the order of last
// use and the budget; it knows neither files nor what a digest names.
//
// Files: ledger.go (the arithmetic, no I/O), adoption.go (the start), segment.go
// (one LRU list), janitor.go (has evicted blobs unlinked, keeps the
// watermarks). The table of what is held is in digests.
package eviction

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
	"hubcap/metrics"
)

// ErrTooLarge says that an object fits into no empty cache either.
var ErrTooLarge = errors.New("larger than the cache")

// ErrNoRoom says that an object does not fit now: the rest of the budget is
// reserved for running fills, or doomed and not yet given back.
var ErrNoRoom = errors.New("no room in the cache")

// block is what a file system hands out at least. Sizes are rounded up to it
// so that a million small manifests are not counted for less than they take.
const block = 4096

// LedgerOptions is what a Ledger needs; every field is required.
type LedgerOptions struct {
	Limit      int64   // bytes that everything together may take on disk
	SmallSize  int64   // objects below this many bytes live in the small segment
	SmallShare float64 // share of Limit that large objects never push small ones out of
	High, Low  float64 // shares of Limit: sweeping begins above High and ends at Low
	Now        func() time.Time
	Metrics    *metrics.Space
}

// Ledger is the account of the bytes on disk, by size and last use. It
// performs no I/O, and its methods may be called at any time by anyone. What
// must go is told by the order of use; its time is for the metrics, so that a
// clock that jumps evicts nothing.
//
// Invariant: small + large (partials among them) + reserved + doomed +
// overhead ≤ limit, but for an overhead that has grown since the last Reserve,
// and for what Adopt was told of files that lay there already.
type Ledger struct {
	limit      int64
	smallLimit int64
	smallSize  int64
	high, low  int64
	clock      func() time.Time
	metrics    *metrics.Space

	mu       sync.Mutex
	objects  *digests.Table[entry]
	small    segment
	large    segment
	reserved int64                   // promised to fills, not committed
	doomed   int64                   // evicted, bytes not yet free
	toUnlink map[digest.Digest]int64 // evicted, file not yet unlinked, bytes on disk
	overhead int64                   // the index
	adopting *adoption               // nil once everything that lay there is counted
}

// NewLedger returns an empty account.
func NewLedger(o LedgerOptions) *Ledger {
	share := func(f float64) int64 { return int64(f * float64(o.Limit)) }
	objects := digests.New[entry]()
	return &Ledger{
		limit:      o.Limit,
		smallLimit: share(o.SmallShare),
		smallSize:  o.SmallSize,
		high:       share(o.High),
		low:        share(o.Low),
		clock:      o.Now,
		metrics:    o.Metrics,
		objects:    objects,
		small:      segment{objects: objects},
		large:      segment{objects: objects},
		toUnlink:   make(map[digest.Digest]int64),
	}
}

// Reserve promises size bytes to a fill before its first byte is written.
// The error is ErrTooLarge or ErrNoRoom, or nil; a promise is ended by Commit
// or Release.
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
	l.adopting.used(d)
	l.add(d, entry{size: size, used: l.now()})
}

// Park turns a promise of size bytes into the partial download of d: it is not
// held, and goes in its turn like an object.
func (l *Ledger) Park(d digest.Digest, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= onDisk(size)
	l.adopting.used(d)
	l.add(d, entry{size: size, used: l.now(), partial: true})
}

// Resume turns the partial download of d back into a promise of size bytes. It
// tells whether there is one.
func (l *Ledger) Resume(d digest.Digest) (size int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, there := l.objects.Find(d)
	if !there || !l.objects.At(r).partial {
		return 0, false
	}
	e := l.remove(r)
	l.adopting.lost(d)
	l.reserved += onDisk(e.size)
	return e.size, true
}

// Touch notes that d is used now. It tells the size of d, and whether d is
// held at all; a doomed object is not.
func (l *Ledger) Touch(d digest.Digest) (size int64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.whole(d)
	if !held {
		return 0, false
	}
	e := l.objects.At(r)
	e.used = l.now()
	l.segmentOf(e).touch(r)
	l.adopting.used(d)
	return e.size, true
}

// Holds is Touch without the use.
func (l *Ledger) Holds(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.whole(d)
	return held
}

// atATime is how many objects are looked at while others wait.
const atATime = 512

// Each calls visit with all objects, in no order. What comes meanwhile may be
// missing, and what is visited may have gone.
func (l *Ledger) Each(visit func(d digest.Digest)) {
	some := make([]digest.Digest, 0, atATime)
	for next := digests.Ref(0); ; {
		some = some[:0]
		l.mu.Lock()
		next = l.objects.Some(next, atATime, func(r digests.Ref) {
			if !l.objects.At(r).partial {
				some = append(some, l.objects.Digest(r))
			}
		})
		l.mu.Unlock()
		for _, d := range some {
			visit(d)
		}
		if next == 0 {
			return
		}
	}
}

// Doom strikes out d by name, because its content is not to be trusted. Its
// bytes count until Freed. It reports whether d was held.
func (l *Ledger) Doom(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.whole(d)
	if !held {
		return false
	}
	l.doom(d, l.remove(r).size)
	l.adopting.lost(d)
	return true
}

// Fits tells whether size bytes could be reserved once everything that may
// go for them has gone; the small segment's share does not go for a large
// object. The error is ErrTooLarge or ErrNoRoom, or nil.
func (l *Ledger) Fits(size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	stays := l.reserved
	if l.adopting != nil {
		stays = l.total() - l.overhead // nothing goes
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

// MakeRoom strikes out what was used least recently until size more bytes
// would fit once the doomed are gone, and returns what it struck out.
func (l *Ledger) MakeRoom(size int64) []digest.Digest {
	if l.Fits(size) != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.evict(l.limit-onDisk(size), size < l.smallSize)
}

// Sweep strikes out what was used least recently, down to the low watermark,
// once the high one is passed.
func (l *Ledger) Sweep() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total()-l.doomed <= l.high {
		return nil
	}
	return l.evict(l.low, false)
}

// Evictable is how many bytes could still be given to the file system.
func (l *Ledger) Evictable() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopting != nil {
		return l.pending()
	}
	return l.pending() + l.small.all.bytes + l.large.all.bytes
}

// Shrink strikes out what was used least recently until size bytes are on
// their way to the file system, which wants them, or nothing is left.
func (l *Ledger) Shrink(size int64) []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.evict(l.total()-l.doomed-(size-l.pending()), true)
}

// pending is what was struck out and is not unlinked yet. l.mu is held.
func (l *Ledger) pending() (bytes int64) {
	for _, n := range l.toUnlink {
		bytes += n
	}
	return bytes
}

// Pending is what was struck out and is not unlinked yet.
func (l *Ledger) Pending() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.toUnlink))
}

// evict dooms objects until what stays is at most target bytes. First go
// those of the small segment beyond its share, then large ones. Into the
// share itself only small objects may push, or a file system in need.
func (l *Ledger) evict(target int64, intoShare bool) (struckOut []digest.Digest) {
	now := l.now()
	for l.adopting == nil && l.total()-l.doomed > target {
		from := &l.large
		switch beyond := l.small.all.bytes > l.smallLimit; {
		case l.small.all.objects > 0 && (beyond || intoShare && l.small.all.bytes == l.smallLimit):
			from = &l.small
		case l.large.all.objects > 0:
		case intoShare:
			from = &l.small
		}
		if from.oldest == 0 {
			break
		}
		d := l.objects.Digest(from.oldest)
		e := l.remove(from.oldest)
		l.doom(d, e.size)
		struckOut = append(struckOut, d)
		l.metrics.Evicted(l.Segment(e.size), e.size, e.used.since(now))
	}
	return struckOut
}

// doom counts d as going. l.mu is held.
func (l *Ledger) doom(d digest.Digest, size int64) {
	l.doomed += onDisk(size)
	l.toUnlink[d] += onDisk(size)
}

// Doomed tells whether d is to be unlinked, and how many bytes that gives.
func (l *Ledger) Doomed(d digest.Digest) (size int64, doomed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, doomed = l.toUnlink[d]
	return size, doomed
}

// Unlinked notes that the file of the doomed d has no name any more. Its
// bytes still count: a reader may have it open.
func (l *Ledger) Unlinked(d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.toUnlink, d)
}

// Freed notes that size bytes of an unlinked file are free.
func (l *Ledger) Freed(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doomed -= onDisk(size)
}

// SetOverhead tells what else takes bytes on disk: the index.
func (l *Ledger) SetOverhead(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.overhead = size
}

// Stats is the account at this moment.
func (l *Ledger) Stats() metrics.SpaceStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	small, large := l.small.whole(), l.large.whole()
	return metrics.SpaceStats{
		Budget:   l.limit,
		Overhead: l.overhead,
		Reserved: l.reserved,
		Doomed:   l.doomed,
		Partial:  l.large.partial.bytes,
		Bytes:    [2]int64{small.bytes, large.bytes},
		Objects:  [2]int{small.objects, large.objects},
	}
}

// total is every byte that counts. l.mu is held.
func (l *Ledger) total() int64 {
	return l.small.all.bytes + l.large.all.bytes + l.reserved + l.doomed + l.overhead + l.adopting.bytes()
}

// whole finds an object that is all there. l.mu is held.
func (l *Ledger) whole(d digest.Digest) (r digests.Ref, held bool) {
	r, held = l.objects.Find(d)
	return r, held && !l.objects.At(r).partial
}

// add counts an object, in place of what was counted for its digest, as the
// one that was used last. l.mu is held.
func (l *Ledger) add(d digest.Digest, e entry) {
	if before, there := l.objects.Find(d); there {
		l.remove(before)
	}
	r := l.objects.Add(d)
	*l.objects.At(r) = e
	l.segmentOf(&e).add(r)
}

// remove takes an object off the account. l.mu is held.
func (l *Ledger) remove(r digests.Ref) entry {
	e := *l.objects.At(r)
	l.segmentOf(&e).remove(r)
	l.objects.Remove(r)
	return e
}

// segmentOf is where an entry is: downloads are large.
func (l *Ledger) segmentOf(e *entry) *segment {
	if e.size < l.smallSize && !e.partial {
		return &l.small
	}
	return &l.large
}

// Segment is where an object of size bytes lives, or would.
func (l *Ledger) Segment(size int64) metrics.Segment {
	if size < l.smallSize {
		return metrics.SegmentSmall
	}
	return metrics.SegmentLarge
}

func (l *Ledger) now() moment { return momentOf(l.clock()) }

// onDisk rounds a length up to whole blocks.
func onDisk(size int64) int64 {
	return (size + block - 1) / block * block
}
