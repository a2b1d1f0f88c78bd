// Package locks has the two tables that keep the files of one digest in order:
// which digests are being changed, and which files are open. It knows no files.
//
// Files: locks.go.
package locks

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// Digests excludes what changes one digest (its fill, its removal) from each
// other; other digests are not affected. The zero value is ready.
type Digests struct {
	mu   sync.Mutex
	held map[digest.Digest]*digestLock
}

type digestLock struct {
	sync.Mutex
	users int // holding it or waiting for it; guarded by Digests.mu
}

// Lock waits until d is free, takes it, and returns the function that releases
// it.
func (l *Digests) Lock(d digest.Digest) (unlock func()) {
	l.mu.Lock()
	one := l.held[d]
	if one == nil {
		one = new(digestLock)
		l.put(d, one)
	}
	one.users++
	l.mu.Unlock()
	one.Lock()
	return func() { l.unlock(d, one) }
}

// TryLock takes d if it is free.
func (l *Digests) TryLock(d digest.Digest) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[d] != nil {
		return nil, false
	}
	one := &digestLock{users: 1}
	one.Lock()
	l.put(d, one)
	return func() { l.unlock(d, one) }, true
}

// Count returns how many digests are locked or waited for.
func (l *Digests) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// Users returns how many hold d or wait for it.
func (l *Digests) Users(d digest.Digest) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.held[d]; one != nil {
		return one.users
	}
	return 0
}

// put notes that d is in use. l.mu is held.
func (l *Digests) put(d digest.Digest, one *digestLock) {
	if l.held == nil {
		l.held = make(map[digest.Digest]*digestLock)
	}
	l.held[d] = one
}

func (l *Digests) unlock(d digest.Digest, one *digestLock) {
	one.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(l.held, d)
	}
}

// Files counts the readers of each open file, so that the bytes of an unlinked
// one count until its last reader has closed it. The zero value is ready.
type Files struct {
	mu      sync.Mutex
	open    map[digest.Digest]*File
	readers int // of all files, those of unlinked ones included
}

// File is one file of a digest; a later file of the same digest has a File of its
// own.
type File struct {
	readers int
	free    func() // called when the last reader leaves; nil while the file has its name
}

// Count returns how many files are open.
func (f *Files) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers
}

// Acquire counts a reader in.
func (f *Files) Acquire(d digest.Digest) *File {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.open[d]
	if one == nil {
		one = new(File)
		f.put(d, one)
	}
	one.readers++
	f.readers++
	return one
}

// Release counts a reader out.
func (f *Files) Release(d digest.Digest, one *File) {
	f.leave(d, one, 1)
}

// leave takes one from the file's readers, and counted from those of all files.
func (f *Files) leave(d digest.Digest, one *File, counted int) {
	f.mu.Lock()
	f.readers -= counted
	one.readers--
	last := one.readers == 0
	if last && f.open[d] == one {
		delete(f.open, d)
	}
	f.mu.Unlock()
	if last && one.free != nil {
		one.free()
	}
}

// Replaced notes that the file of d was replaced by another one. A reader that
// was counted before may have opened either file, so both count as open until
// the last of these readers has left; then free is called.
func (f *Files) Replaced(d digest.Digest, free func()) {
	f.mu.Lock()
	before := f.open[d]
	if before != nil {
		next := &File{readers: 1}
		before.free = func() {
			free()
			f.leave(d, next, 0)
		}
		f.put(d, next)
	}
	f.mu.Unlock()
	if before == nil {
		free()
	}
}

// Unlinked notes that the file of d has no name any more. free is called once no
// reader has it open, which may be now.
func (f *Files) Unlinked(d digest.Digest, free func()) {
	f.mu.Lock()
	one := f.open[d]
	if one != nil {
		one.free = free
		delete(f.open, d)
	}
	f.mu.Unlock()
	if one == nil {
		free()
	}
}

// put notes that one is the file of d. f.mu is held.
func (f *Files) put(d digest.Digest, one *File) {
	if f.open == nil {
		f.open = make(map[digest.Digest]*File)
	}
	f.open[d] = one
}
