package blobs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Space is what the data directory's file system is like now.
type Space struct {
	Total    int64 // bytes
	Free     int64 // bytes that an ordinary user may still write
	NoInodes bool  // it makes no more files, whatever is free
	ReadOnly bool
	Full     bool // it has refused what was written to try it, whatever is free: quotas show in no other way
}

// refusal is how long a file system counts as read-only after it has refused a
// file for that: ext4 that has met an error does so and says it nowhere else.
const refusal = time.Minute

// Space looks at the file system.
func (s *Store) Space() (Space, error) {
	if s.trial.failed.Load() {
		s.tryRoom()
	}
	space, err := fileSystem(s.dir)
	space.Full = s.trial.failed.Load()
	if at := s.refused.Load(); at != nil && time.Since(*at) < refusal {
		space.ReadOnly = true
	}
	return space, err
}

// refusing notes that the file system has refused a file, if that is why err
// is.
func (s *Store) refusing(err error) {
	if errors.Is(err, syscall.EROFS) {
		now := time.Now()
		s.refused.Store(&now)
	}
}

// Sound tells whether what is read of f is what was written to it, as far as
// the system knows; the error says why not. A page that cannot be written
// back is lost, also to readers: nobody is told, but the next one who syncs the
// file and whoever changes something on a file system that has given up. The
// failure is told of once for each open file.
func (s *Store) Sound(f *os.File) error {
	if err := writtenBack(f); err != nil {
		return fmt.Errorf("what was written did not reach the disk: %w", err)
	}
	// Of all changes, the length of a file without content is the cheapest
	// one that a file system in trouble refuses.
	if err := s.lock.Truncate(s.beat.Add(1) % 2); err != nil {
		s.refusing(err)
		return fmt.Errorf("the file system takes no changes: %w", err)
	}
	return nil
}

// Free is how many bytes may still be written.
func (s *Store) Free() (int64, error) {
	space, err := s.Space()
	return space.Free, err
}

// Room is how many bytes may still go into new files: none where no file can
// be made, and none where some bytes that are written to try it are refused.
func (s *Store) Room() (int64, error) {
	s.tryRoom()
	space, err := s.Space()
	if space.NoInodes || space.ReadOnly || space.Full {
		return 0, err
	}
	return space.Free, err
}

// ballastName is a file that holds nothing but room, to be given up when
// others have filled the file system.
const ballastName = "ballast"

// HoldBallast sets size bytes aside, if they are not. After an error there is
// none.
func (s *Store) HoldBallast(size int64) error {
	f, err := s.root.OpenFile(ballastName, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err = allocate(f, size); err == nil {
		err = f.Truncate(size)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.DropBallast()
	}
	return err
}

// DropBallast gives the ballast's room back, and tells whether there was any.
func (s *Store) DropBallast() bool {
	s.trial.freed.Store(true)
	return s.root.Remove(ballastName) == nil
}

// Ballast is how many bytes are set aside.
func (s *Store) Ballast() int64 {
	info, err := s.root.Lstat(ballastName)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return 0
	}
	return info.Size()
}
