package blobs

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// allocate sets bytes aside without changing the length that readers see.
func allocate(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// signature changes with whatever is done to a file: nobody can set ctime.
func signature(info fs.FileInfo) uint64 {
	numbers := []int64{info.Size(), info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		numbers = append(numbers, int64(stat.Ino), stat.Ctim.Nano()) //nolint:gosec // only compared
	}
	return sum(numbers)
}
