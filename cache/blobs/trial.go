package blobs

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// How much a trial writes, in bytes. A large trial is twice what Badger writes
// when a memory table is full. Its result holds for trialHolds, and for trialSpent
// bytes of downloads; then the space may be used up.
const (
	trialSmall  = 1 << 20
	trialLarge  = 16 << 20
	trialHolds  = 250 * time.Millisecond
	trialSpent  = 4 << 20
	trialOfFile = 128 << 10 // of trialSpent for a new file: btrfs reserves that much for its entries
)

// NoSpace reports whether err says that a file system, or a quota, is full.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// trial is the result of trial writes. The free bytes that a file system reports
// ignore quotas: those of btrfs and of projects only show when a write is refused.
type trial struct {
	useful bool // on this file system
	failed atomic.Bool
	freed  atomic.Bool  // something was removed since the last large one
	spent  atomic.Int64 // bytes of downloads since the last large one

	mu    sync.Mutex
	file  *os.File  // it has no name; nil before the first trial
	large time.Time // of the last large one
	owed  int64     // bytes of the ballast that was removed when it failed
}

// due reports whether a trial has to be large.
func (t *trial) due(now time.Time) bool {
	if t.failed.Load() { // a trial that fails is the slowest
		return now.Sub(t.large) >= time.Second || t.freed.Load()
	}
	return now.Sub(t.large) >= trialHolds || t.spent.Load() >= trialSpent
}

// tryRoom writes some bytes and truncates them. If they are refused, it removes
// the ballast at once, for what Badger is writing; the file system counts as full
// until the ballast and a large trial fit again. A trial writes at most half of
// the bytes that the file system reports as free. It does not allocate blocks,
// which btrfs would keep until its next commit: a file system that delays writes
// reserves space and quota for the bytes, and they are truncated before they
// reach the disk. On other file systems they would be written, so there is no
// trial.
func (s *Store) tryRoom() {
	t := &s.trial
	if !t.useful {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	size, failed, now := int64(trialSmall), t.failed.Load(), time.Now()
	switch {
	case t.due(now):
		size = trialLarge + t.owed
		t.large = now
		t.freed.Store(false)
		t.spent.Store(0)
	case failed:
		return
	}
	if space, err := fileSystem(s.dir); err == nil {
		size = min(size, space.Free/2)
	}
	refused := NoSpace(s.writeTrial(size))
	t.failed.Store(refused)
	switch {
	case refused && !failed:
		t.owed = s.Ballast()
		s.DropBallast()
	case !refused:
		t.owed = 0
	}
}

// refusedRoom starts a trial if err says that the file system is full.
func (s *Store) refusedRoom(err error) {
	if NoSpace(err) {
		s.tryRoom()
	}
}

// zeros are what a trial writes.
var zeros [256 << 10]byte

func (s *Store) writeTrial(size int64) (err error) {
	t := &s.trial
	if t.file == nil {
		if t.file, err = s.unnamed(); err != nil {
			return err
		}
	}
	for off := int64(0); off < size && err == nil; off += int64(len(zeros)) {
		_, err = t.file.WriteAt(zeros[:], off)
	}
	return errors.Join(err, t.file.Truncate(0))
}

// unnamed creates a file in the data directory and unlinks it.
func (s *Store) unnamed() (*os.File, error) {
	const name = "trial"
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := s.root.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (t *trial) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
