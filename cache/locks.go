package cache

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// locks excludes the fill and the removal of one digest from each other,
// while those of other digests go on.
type locks struct {
	mu   sync.Mutex
	held map[digest.Digest]*digestLock
}

type digestLock struct {
	sync.Mutex
	users int // holding it or waiting for it; guarded by locks.mu
}

// lock waits until d is free, takes it, and returns what gives it back.
func (l *locks) lock(d digest.Digest) (unlock func()) {
	l.mu.Lock()
	one := l.held[d]
	if one == nil {
		one = new(digestLock)
		l.held[d] = one
	}
	one.users++
	l.mu.Unlock()
	one.Lock()
	return func() { l.unlock(d, one) }
}

// tryLock takes d if it is free.
func (l *locks) tryLock(d digest.Digest) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[d] != nil {
		return nil, false
	}
	one := &digestLock{users: 1}
	one.Lock()
	l.held[d] = one
	return func() { l.unlock(d, one) }, true
}

func (l *locks) unlock(d digest.Digest, one *digestLock) {
	one.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(l.held, d)
	}
}

// handles knows which files are open, so that the bytes of an unlinked one
// are counted until its last reader has closed it.
type handles struct {
	mu   sync.Mutex
	open map[digest.Digest]*handle
}

// handle is one file of a digest; a later file of the same digest has a
// handle of its own.
type handle struct {
	readers int
	gone    func() // called when the last reader leaves; nil while the file has a name
}

// acquire counts a reader in.
func (h *handles) acquire(d digest.Digest) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.open[d]
	if one == nil {
		one = new(handle)
		h.open[d] = one
	}
	one.readers++
	return one
}

// release counts a reader out.
func (h *handles) release(d digest.Digest, one *handle) {
	h.mu.Lock()
	one.readers--
	last := one.readers == 0
	if last && h.open[d] == one {
		delete(h.open, d)
	}
	h.mu.Unlock()
	if last && one.gone != nil {
		one.gone()
	}
}

// replace says that there is another file of d. A reader of before may have
// opened the one or the other, so that both count as open until the last of
// them has closed its own. free is called then.
func (h *handles) replace(d digest.Digest, free func()) {
	h.mu.Lock()
	before := h.open[d]
	if before != nil {
		next := &handle{readers: 1}
		before.gone = func() {
			free()
			h.release(d, next)
		}
		h.open[d] = next
	}
	h.mu.Unlock()
	if before == nil {
		free()
	}
}

// retire says that the file of d has lost its name. free is called once
// nobody has it open any more, which may be now.
func (h *handles) retire(d digest.Digest, free func()) {
	h.mu.Lock()
	one := h.open[d]
	if one != nil {
		one.gone = free
		delete(h.open, d)
	}
	h.mu.Unlock()
	if one == nil {
		free()
	}
}
