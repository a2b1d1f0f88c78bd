package eviction

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// adoption is the counting of what lay on disk at the start, while the ledger
// is in use already. Until its end nothing is evicted, since nobody knows what
// was used least recently. A nil one is over.
type adoption struct {
	unseen  int64 // bytes that are said to lie there and have not been counted
	recent  []digest.Digest
	touched map[digest.Digest]struct{} // those in recent
	gone    map[digest.Digest]struct{} // what is not to be counted any more
}

// BeginAdoption expects so many bytes to lie on disk. They count as used until
// EndAdoption.
func (l *Ledger) BeginAdoption(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adopting = &adoption{
		unseen:  bytes,
		touched: make(map[digest.Digest]struct{}),
		gone:    make(map[digest.Digest]struct{}),
	}
}

// Adopt counts an object, or a partial download, that is on disk already. It
// does not look at the limit: Sweep mends that.
func (l *Ledger) Adopt(d digest.Digest, size int64, used time.Time, partial bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopting != nil {
		if _, gone := l.adopting.gone[d]; gone {
			return
		}
		if _, there := l.objects.Find(d); there {
			return
		}
		l.adopting.unseen = max(l.adopting.unseen-onDisk(size), 0)
	}
	l.add(d, entry{size: size, used: momentOf(used), partial: partial})
}

// EndAdoption says that everything is counted. What was adopted is now in the
// order of its last use, or of its adoption where that is the same, and what was
// used meanwhile counts as later than all.
func (l *Ledger) EndAdoption() {
	l.order()
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.adopting
	l.adopting = nil
	if over == nil {
		return
	}
	now := l.now()
	for _, d := range over.recent {
		if r, held := l.whole(d); held {
			e := l.objects.At(r)
			e.used = now
			l.segmentOf(e).touch(r)
		}
	}
}

// order brings all objects into the order of their last use, a few at a time,
// so that nobody waits for it. What is used meanwhile is out of order then.
func (l *Ledger) order() {
	type object struct {
		used moment
		ref  digests.Ref
	}
	var all []object
	for next := digests.Ref(0); ; {
		l.mu.Lock()
		next = l.objects.Some(next, atATime, func(r digests.Ref) {
			all = append(all, object{l.objects.At(r).used, r})
		})
		l.mu.Unlock()
		if next == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b object) int { return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.ref, b.ref)) })
	for some := range slices.Chunk(all, atATime) {
		l.mu.Lock()
		for _, one := range some {
			if l.objects.Holds(one.ref) { // it may be another object by now, which is one that was used
				l.segmentOf(l.objects.At(one.ref)).touch(one.ref)
			}
		}
		l.mu.Unlock()
	}
}

// used notes that d was used during the adoption.
func (a *adoption) used(d digest.Digest) {
	if a == nil {
		return
	}
	delete(a.gone, d)
	if _, known := a.touched[d]; !known {
		a.touched[d] = struct{}{}
		a.recent = append(a.recent, d)
	}
}

// lost notes that d is not there any more.
func (a *adoption) lost(d digest.Digest) {
	if a != nil {
		a.gone[d] = struct{}{}
	}
}

// bytes is what lies there and has not been counted.
func (a *adoption) bytes() int64 {
	if a == nil {
		return 0
	}
	return a.unseen
}
