package eviction

import "github.com/opencontainers/go-digest"

// Purge evicts d by name at the wish of an operator, pinned or not, and its partial
// fill too. With dryRun nothing is evicted. It returns the size in bytes of what is
// held of d, and reports whether anything is.
func (l *Ledger) Purge(d digest.Digest, dryRun bool) (size int64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.objects.Find(d)
	if !held {
		return 0, false
	}
	size = l.objects.At(r).size
	if !dryRun {
		l.countEvicted(d, l.remove(r).size)
		l.adopting.noteRemoved(d)
	}
	return size, true
}
