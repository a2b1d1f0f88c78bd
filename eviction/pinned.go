package eviction

import (
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// pins is the set of the digests that are not evicted to make room, whether they
// are held or not. What of them is held, partial fills included, is in a list of
// its own that counts in the budget; Evict alone evicts from it.
type pins struct {
	setting sync.Mutex             // one SetPinned at a time; taken before Ledger.mu
	set     *digests.Table[uint32] // the round in which a digest was last pinned
	round   uint32
	list    list
	awaited bool // AwaitPins was called, and SetPinned not since
}

// AwaitPins has the ledger evict nothing until SetPinned is called: at the start
// it is not known at once what is pinned.
func (l *Ledger) AwaitPins() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pins.awaited = true
}

// SetPinned replaces the set of pinned digests, held or not. One that was in it
// stays pinned throughout if it is in the new set too; one that is no longer
// pinned is evicted after all that is held now in its segment. The ledger is not
// locked while all is read.
func (l *Ledger) SetPinned(all iter.Seq[digest.Digest]) {
	l.pins.setting.Lock()
	defer l.pins.setting.Unlock()
	l.pins.round++
	some := make([]digest.Digest, 0, batch)
	for d := range all {
		if some = append(some, d); len(some) == batch {
			l.pin(some)
			some = some[:0]
		}
	}
	l.pin(some)
	for next := digests.Ref(0); ; {
		if next = l.unpin(next); next == 0 {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pins.awaited = false
}

// pin pins digests in the present round.
func (l *Ledger) pin(some []digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range some {
		r, known := l.pins.set.Find(d)
		if !known {
			r = l.pins.set.Add(d)
			l.move(d, true)
		}
		*l.pins.set.At(r) = l.pins.round
	}
}

// unpin unpins those of a batch of digests that are not pinned in the present
// round, and returns where the next batch begins; 0 at the end.
func (l *Ledger) unpin(from digests.Ref) (next digests.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ended []digests.Ref
	next = l.pins.set.Some(from, batch, func(r digests.Ref) {
		if *l.pins.set.At(r) != l.pins.round {
			ended = append(ended, r)
		}
	})
	for _, r := range ended {
		d := l.pins.set.Digest(r)
		l.pins.set.Remove(r)
		l.move(d, false)
	}
	return next
}

// move moves d to the list of what is pinned, or out of it, if it is on disk.
// l.mu is held.
func (l *Ledger) move(d digest.Digest, pinned bool) {
	if r, found := l.objects.Find(d); found {
		e := l.objects.At(r)
		l.listOf(e).remove(r)
		e.pinned = pinned
		l.listOf(e).add(r)
	}
}

// Pinned reports whether d is pinned. It may not be held.
func (l *Ledger) Pinned(d digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pinned(d)
}

// pinned is Pinned. l.mu is held.
func (l *Ledger) pinned(d digest.Digest) bool {
	_, pinned := l.pins.set.Find(d)
	return pinned
}

// settled reports whether it is known what may be evicted. l.mu is held.
func (l *Ledger) settled() bool { return l.adopting == nil && !l.pins.awaited }
