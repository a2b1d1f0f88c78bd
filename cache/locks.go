package cache

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// locks excludes the fill and the removal of one digest from each other;
// those of other digests are not affected.
type locks struct {
	mu   sync.Mutex
	held map[digest.Digest]*digestLock
}

type digestLock struct {
	sync.Mutex
	users int // holding it or waiting for it; guarded by locks.mu
}

// lock waits until d is free, takes it, and returns the function that releases
// it.
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

// handles counts the readers of each open file, so that the bytes of an
// unlinked one count until its last reader has closed it.
type handles struct {
	mu      sync.Mutex
	open    map[digest.Digest]*handle
	readers int // of all files, those of unlinked ones included
}

// handle is one file of a digest; a later file of the same digest has a handle
// of its own.
type handle struct {
	readers int
	free    func() // called when the last reader leaves; nil while the file has its name
}

// files returns how many files are open.
func (h *handles) files() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.readers
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
	h.readers++
	return one
}

// release counts a reader out.
func (h *handles) release(d digest.Digest, one *handle) {
	h.leave(d, one, 1)
}

// leave takes one from the handle's readers, and counted from those of all files.
func (h *handles) leave(d digest.Digest, one *handle, counted int) {
	h.mu.Lock()
	h.readers -= counted
	one.readers--
	last := one.readers == 0
	if last && h.open[d] == one {
		delete(h.open, d)
	}
	h.mu.Unlock()
	if last && one.free != nil {
		one.free()
	}
}

// replaced notes that the file of d was replaced by another one. A reader that
// was counted before may have opened either file, so both count as open until
// the last of these readers has left; then free is called.
func (h *handles) replaced(d digest.Digest, free func()) {
	h.mu.Lock()
	before := h.open[d]
	if before != nil {
		next := &handle{readers: 1}
		before.free = func() {
			free()
			h.leave(d, next, 0)
		}
		h.open[d] = next
	}
	h.mu.Unlock()
	if before == nil {
		free()
	}
}

// unlinked notes that the file of d has no name any more. free is called once no
// reader has it open, which may be now.
func (h *handles) unlinked(d digest.Digest, free func()) {
	h.mu.Lock()
	one := h.open[d]
	if one != nil {
		one.free = free
		delete(h.open, d)
	}
	h.mu.Unlock()
	if one == nil {
		free()
	}
}
