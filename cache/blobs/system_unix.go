//go:build unix

package blobs

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes f for this process. The lock ends with the process, however
// that ends.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// fileSystem is the size of dir's file system and what an ordinary user may
// still write to it, in bytes.
func fileSystem(dir string) (total, free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	block := int64(s.Bsize)                                      //nolint:unconvert // the fields' types differ between systems
	return int64(s.Blocks) * block, int64(s.Bavail) * block, nil //nolint:gosec // no file system has 2^63 bytes
}
