package eviction

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// adoption is the counting of the files found at the start, while the ledger is
// already in use. Nothing is evicted before its end, because the order of last
// use is not known yet. A nil adoption has ended.
type adoption struct {
	expected int64 // bytes believed to be on disk and not counted yet
	recent   []digest.Digest
	touched  map[digest.Digest]struct{} // those in recent
	removed  map[digest.Digest]struct{} // not to be counted any more
}

// BeginAdoption counts the given bytes, which are believed to be on disk, as
// used until they are adopted or EndAdoption is called.
func (l *Ledger) BeginAdoption(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adopting = &adoption{
		expected: bytes,
		touched:  make(map[digest.Digest]struct{}),
		removed:  make(map[digest.Digest]struct{}),
	}
}

// Adopt counts an object, or a partial fill, that is on disk already. It may
// exceed the limit; the next Sweep corrects that.
func (l *Ledger) Adopt(d digest.Digest, size int64, used time.Time, partial bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopting != nil {
		if _, removed := l.adopting.removed[d]; removed {
			return
		}
		if _, counted := l.objects.Find(d); counted {
			return
		}
		l.adopting.expected = max(l.adopting.expected-onDisk(size), 0)
	}
	l.add(d, entry{size: size, used: momentOf(used), partial: partial})
}

// EndAdoption ends the adoption: everything on disk is counted. The adopted
// objects are now in the order of their last use (of their adoption where that
// is equal), before all that were used in the meantime.
func (l *Ledger) EndAdoption() {
	l.order()
	l.mu.Lock()
	defer l.mu.Unlock()
	ended := l.adopting
	l.adopting = nil
	if ended == nil {
		return
	}
	now := l.now()
	for _, d := range ended.recent {
		if r, held := l.whole(d); held {
			e := l.objects.At(r)
			e.used = now
			l.listOf(e).touch(r)
		}
	}
}

// order brings all objects into the order of their last use, a batch at a time
// so that other calls need not wait. Objects that are used in the meantime are
// out of order afterwards; EndAdoption corrects that.
func (l *Ledger) order() {
	type object struct {
		used moment
		ref  digests.Ref
	}
	var all []object
	for next := digests.Ref(0); ; {
		l.mu.Lock()
		next = l.objects.Some(next, batch, func(r digests.Ref) {
			all = append(all, object{l.objects.At(r).used, r})
		})
		l.mu.Unlock()
		if next == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b object) int { return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.ref, b.ref)) })
	for some := range slices.Chunk(all, batch) {
		l.mu.Lock()
		for _, one := range some {
			if l.objects.Holds(one.ref) { // it may be another object by now, which was used then
				l.listOf(l.objects.At(one.ref)).touch(one.ref)
			}
		}
		l.mu.Unlock()
	}
}

// noteUsed notes that d was used during the adoption.
func (a *adoption) noteUsed(d digest.Digest) {
	if a == nil {
		return
	}
	delete(a.removed, d)
	if _, known := a.touched[d]; !known {
		a.touched[d] = struct{}{}
		a.recent = append(a.recent, d)
	}
}

// noteRemoved notes that d is no longer on disk.
func (a *adoption) noteRemoved(d digest.Digest) {
	if a != nil {
		a.removed[d] = struct{}{}
	}
}

// bytes returns how many bytes are believed to be on disk and not counted yet.
func (a *adoption) bytes() int64 {
	if a == nil {
		return 0
	}
	return a.expected
}
