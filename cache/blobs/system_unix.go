//go:build unix

package blobs

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile locks f for this process, until the process ends.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// fileSystem returns the state of the file system of an open directory. Another
// one may have been mounted over its path.
func fileSystem(dir *os.File) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return Space{}, err
	}
	block := int64(s.Bsize) //nolint:unconvert // the fields' types differ between systems
	return Space{
		Total:    int64(s.Blocks) * block,     //nolint:gosec // no file system has 2^63 bytes
		Free:     int64(s.Bavail) * block,     //nolint:gosec // see above
		NoInodes: s.Files > 0 && s.Ffree == 0, // some create them when needed, and report 0 of 0
		ReadOnly: errors.Is(unix.Faccessat(int(dir.Fd()), ".", unix.W_OK, 0), unix.EROFS),
	}, nil
}

// writable returns why no file can be created in a directory.
func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

// allocated returns how many bytes a file uses on disk.
func allocated(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512 // POSIX leaves the unit open; all systems have this one
	}
	return info.Size()
}

// statAt describes a file of an open directory, and follows no link.
func statAt(dir *os.File, name string) (size int64, modified time.Time, regular bool, err error) {
	var s unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, time.Time{}, false, err
	}
	return s.Size, time.Unix(s.Mtim.Unix()), s.Mode&unix.S_IFMT == unix.S_IFREG, nil
}
