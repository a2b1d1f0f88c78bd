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

// delaysWrites reports whether the file system of an open directory is one
// that keeps what is written in memory for a while, with the room for it set
// aside, and may have quotas that it does not tell of.
func delaysWrites(dir *os.File) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return false
	}
	switch uint32(s.Type) { //nolint:gosec // its width differs between systems; the numbers have 32 bits
	case unix.BTRFS_SUPER_MAGIC, unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return true
	}
	return false
}

// openBeneath opens a file below dir for reading, in one call, and follows no
// link on the way. Whatever it cannot open, os.Root may.
func openBeneath(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   uint64(reading | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// writtenBack tells of bytes of f that the system could not write to disk since
// f was opened. A range beyond every byte has nothing that would be waited for;
// what has failed is told of for the whole file.
func writtenBack(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 1<<62, 1, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
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
