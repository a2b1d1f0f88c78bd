package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// ErrNoRoom says that the index was not written because the file system is
// nearly full, or can create no files. Badger writes through mapped memory, and a
// page that the disk has no room for kills the process (SIGBUS).
var ErrNoRoom = errors.New("the file system has no room")

// room returns ErrNoRoom if a database must not be written, and nil if the free
// space cannot be read.
func (x *Index) room(db *database) error {
	if db.inMemory {
		return nil
	}
	return x.roomOnDisk()
}

func (x *Index) roomOnDisk() error {
	free, err := x.Room()
	if err == nil && free < x.Reserve {
		return fmt.Errorf("%w: for %d bytes, and the index needs %d", ErrNoRoom, free, x.Reserve)
	}
	return nil
}

// DiskBytes returns how many bytes the index takes on disk, the snapshot and the
// indexes that were set aside included, holes in sparse files excluded.
func (x *Index) DiskBytes() int64 {
	var total int64
	// Files that are removed during the walk take nothing.
	_ = fs.WalkDir(os.DirFS(x.path), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if path != "." && !ours(path) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := entry.Info(); err == nil {
			total += allocated(info)
		}
		return nil
	})
	return total
}

// ours reports whether a path below the data directory is the index's.
func ours(path string) bool {
	top, _, _ := strings.Cut(path, "/")
	return top == indexName || strings.HasPrefix(top, indexName+".") || strings.HasPrefix(top, snapshotName)
}

// allocated returns how many bytes a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512 // st_blocks counts in 512 bytes on every system
	}
	return info.Size()
}
