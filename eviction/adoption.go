package eviction

import (
	"time"

	"github.com/opencontainers/go-digest"
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

// Adopt counts an object, or a partial download, that is on disk already. Those
// adopted later count as used later, whatever used says, and what is used
// meanwhile as later than all. It does not look at the limit: Sweep mends that.
func (l *Ledger) Adopt(d digest.Digest, size int64, used time.Time, partial bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopting != nil {
		if _, gone := l.adopting.gone[d]; gone || l.large.list.Contains(d) || l.small.list.Contains(d) {
			return
		}
		l.adopting.unseen = max(l.adopting.unseen-onDisk(size), 0)
	}
	to := l.segmentFor(size)
	if partial {
		to = &l.large
	}
	to.add(d, entry{size: size, used: momentOf(used), partial: partial})
}

// EndAdoption says that everything is counted.
func (l *Ledger) EndAdoption() {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.adopting
	l.adopting = nil
	if over == nil {
		return
	}
	now := l.now()
	for _, d := range over.recent {
		if _, held := l.large.touch(d, now); !held {
			l.small.touch(d, now)
		}
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
