package blobs

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// allocate allocates bytes without changing the length of the file.
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

// delaysWrites reports whether the file system of an open directory is one that
// keeps written bytes in memory for a while, with space reserved for them, and
// may have quotas that it does not report.
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

// openBeneath opens a file below dir for reading, in one system call, and follows
// no link on the way. os.Root may be able to open what it cannot.
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

// writtenBack returns an error if the system could not write bytes of f to disk
// since f was opened. The range is beyond the end, so that there is nothing to
// wait for; errors are reported for the whole file.
func writtenBack(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 1<<62, 1, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// signature changes with any change of a file: no program can set ctime.
func signature(info fs.FileInfo) uint64 {
	numbers := []int64{info.Size(), info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		numbers = append(numbers, int64(stat.Ino), stat.Ctim.Nano()) //nolint:gosec // only compared
	}
	return sum(numbers)
}

// zfs is the number of ZFS's file systems, which is not among the kernel's.
const zfs = 0x2fc12fc1

// kindOf returns the name of an open directory's file system, and its trait.
func kindOf(dir *os.File) (string, Trait) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return "", Plain
	}
	switch uint32(s.Type) { //nolint:gosec // see delaysWrites
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", Plain
	case unix.XFS_SUPER_MAGIC:
		return "xfs", Plain
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", Plain
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs", Plain
	case zfs:
		return "zfs", Plain
	case unix.NFS_SUPER_MAGIC:
		return "nfs", Network
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "smb", Network
	case unix.CEPH_SUPER_MAGIC:
		return "ceph", Network
	case unix.V9FS_MAGIC:
		return "9p", Network
	case unix.FUSE_SUPER_MAGIC:
		return "fuse", Network
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs", Memory
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", Layer
	}
	return "", Plain
}
