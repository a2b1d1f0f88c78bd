package blobs

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Space is the state of the data directory's file system.
type Space struct {
	Total    int64 // bytes
	Free     int64 // bytes that an ordinary user may still write
	NoInodes bool  // it can create no more files, whatever is free
	ReadOnly bool
	Full     bool // a trial write was refused, whatever is free: the only sign of some quotas
}

// refusal is how long a file system counts as read-only after it has refused a
// file for that reason: it is the only sign of an ext4 that has met an error.
const refusal = time.Minute

// Space returns the state of the file system.
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

// refusing notes that the file system has refused a file as read-only, if err
// says so.
func (s *Store) refusing(err error) {
	if errors.Is(err, syscall.EROFS) {
		now := time.Now()
		s.refused.Store(&now)
	}
}

// Sound returns an error if what is read from f may not be what was written to
// it, as far as the system knows. A page that cannot be written back is lost,
// also for readers. The system reports that only to the next sync of the file,
// once for each open file, and to changes on a file system that has failed.
func (s *Store) Sound(f *os.File) error {
	if err := writtenBack(f); err != nil {
		return fmt.Errorf("what was written did not reach the disk: %w", err)
	}
	// The cheapest change that a failed file system refuses is the length of a
	// file without content.
	if err := s.lock.Truncate(s.beat.Add(1) % 2); err != nil {
		s.refusing(err)
		return fmt.Errorf("the file system takes no changes: %w", err)
	}
	return nil
}

// Free returns how many bytes may still be written.
func (s *Store) Free() (int64, error) {
	space, err := s.Space()
	return space.Free, err
}

// Room returns how many bytes may still be written to new files: 0 if no file can
// be created, or if a trial write is refused.
func (s *Store) Room() (int64, error) {
	s.tryRoom()
	space, err := s.Space()
	if space.NoInodes || space.ReadOnly || space.Full {
		return 0, err
	}
	return space.Free, err
}

// ballastName is a file that only allocates space, which is freed when others
// have filled the file system.
const ballastName = "ballast"

// HoldBallast makes the ballast size bytes long. After an error there is none.
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

// DropBallast removes the ballast, and reports whether there was one.
func (s *Store) DropBallast() bool {
	s.trial.freed.Store(true)
	return s.root.Remove(ballastName) == nil
}

// Ballast returns the size of the ballast in bytes; 0 if there is none.
func (s *Store) Ballast() int64 {
	info, err := s.root.Lstat(ballastName)
	if err != nil {
		return 0
	}
	return info.Size()
}
