package blobs

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What is written to try the room, in bytes. A large trial is twice what Badger
// writes when a memory table is full. What it has shown holds until others may
// have taken that: for a while, and for so many bytes of downloads.
const (
	trialSmall  = 1 << 20
	trialLarge  = 16 << 20
	trialHolds  = 250 * time.Millisecond
	trialSpent  = 4 << 20
	trialOfFile = 128 << 10 // that a new file counts for: btrfs sets so much aside for its entries
)

// NoSpace reports whether err says that a file system, or a quota, is full.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// trial is what trying the room has shown. What a file system says is free
// knows nothing of quotas: those of btrfs and of projects refuse a byte when
// it comes.
type trial struct {
	useful bool // on this file system
	failed atomic.Bool
	freed  atomic.Bool  // something was removed since the last large one
	spent  atomic.Int64 // bytes of downloads since the last large one

	mu    sync.Mutex
	file  *os.File  // it has no name; nil before the first trial
	large time.Time // of the last large one
	owed  int64     // bytes of the ballast that was given up when it failed
}

// due reports whether a trial has to be large.
func (t *trial) due(now time.Time) bool {
	if t.failed.Load() { // one that fails again costs most
		return now.Sub(t.large) >= time.Second || t.freed.Load()
	}
	return now.Sub(t.large) >= trialHolds || t.spent.Load() >= trialSpent
}

// tryRoom writes some bytes and takes them back. Where they are refused, the
// ballast is given up at once, for what Badger has under way; it counts as
// refused until the ballast and a large trial fit again. What the file system
// says itself is believed: no more than half of what it says is free is
// tried. Blocks are not asked for, which would have btrfs keep them until its
// next commit, but bytes that are taken back before they are written to disk:
// the file systems that delay writes, and their quotas, set the room for these
// aside. On others the bytes would cost what they are, and nothing is tried.
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

// refusedRoom tries the room where a file system has had none.
func (s *Store) refusedRoom(err error) {
	if NoSpace(err) {
		s.tryRoom()
	}
}

// zeros are what is written.
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

// unnamed makes a file in the data directory and takes its name away.
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
