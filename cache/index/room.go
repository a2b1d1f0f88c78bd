package index

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNoRoom says that the index was not written because the file system is
// nearly full, or takes no new files. Badger writes through mapped memory, and
// a page that the disk has no room for kills the process (SIGBUS), which nobody
// can recover.
var ErrNoRoom = errors.New("the file system has no room")

// room tells whether the index may be written. An unreadable figure does not
// stop it.
func (x *Index) room() error {
	if x.inMemory {
		return nil
	}
	free, err := x.Room()
	if err == nil && free < x.Reserve {
		return fmt.Errorf("%w: for %d bytes, and the index wants %d", ErrNoRoom, free, x.Reserve)
	}
	return nil
}

// DiskBytes is what the index takes on disk, with the snapshot and what was
// set aside, holes in sparse files not counted.
func (x *Index) DiskBytes() int64 {
	var total int64
	// Files come and go under the walk; what is gone takes nothing.
	_ = filepath.WalkDir(x.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if top, err := filepath.Rel(x.Dir, path); err == nil && top != "." && !ours(top) {
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

// ours tells whether a path below the data directory is the index's.
func ours(path string) bool {
	top, _, _ := strings.Cut(path, string(filepath.Separator))
	return top == indexName || strings.HasPrefix(top, indexName+".") || strings.HasPrefix(top, snapshotName)
}

// allocated is what a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512 // st_blocks counts in 512 bytes on every system
	}
	return info.Size()
}
