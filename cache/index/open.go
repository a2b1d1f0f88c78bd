package index

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// maxTries is how often an index may take the whole process down with it
// before it is set aside: once may have been a power cut.
const maxTries = 2

// Open opens the index in dir. One that Badger cannot open, or that makes it
// panic, is set aside as dir.bad-<time>, and an empty one takes its place:
// an index is worth less than a start.
//
// A damaged table panics in a goroutine of Badger's own, where nobody can
// recover. So the tries are counted in a file beside dir, and an index under
// which the process died twice while opening is set aside at the third start.
func Open(dir string, log *slog.Logger) (*Index, error) {
	tries := tries(dir + ".opening")
	err := fmt.Errorf("the process died %d times while opening it", maxTries)
	if tries.count() < maxTries {
		tries.add()
		var x *Index
		if x, err = open(dir); err == nil {
			tries.clear()
			return x, nil
		}
	}
	aside := fmt.Sprintf("%s.bad-%s", dir, time.Now().UTC().Format("20060102T150405.000Z"))
	if renameErr := os.Rename(dir, aside); renameErr != nil && !errors.Is(renameErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("index in %s: %w; setting it aside: %w", dir, err, renameErr)
	}
	tries.clear()
	log.Warn("the index could not be opened and was set aside; beginning an empty one, tags are learned anew", "err", err, "aside", aside)
	return open(dir)
}

// tries is a file whose length is the number of openings that did not end.
type tries string

func (t tries) count() int64 {
	info, err := os.Stat(string(t))
	if err != nil {
		return 0
	}
	return info.Size()
}

// add and clear ignore errors: not to count is better than not to start.
func (t tries) add() {
	f, err := os.OpenFile(string(t), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(".")
	_ = f.Close()
}

func (t tries) clear() { _ = os.Remove(string(t)) }

// open is badger.Open without those panics that can be caught.
func open(dir string) (x *Index, err error) {
	defer func() {
		if p := recover(); p != nil {
			x, err = nil, fmt.Errorf("badger panicked: %v", p)
		}
	}()
	db, err := badger.Open(settings(dir))
	if err != nil {
		return nil, err
	}
	return &Index{db: db}, nil
}

// settings keep Badger small: some tens of MiB of memory and of empty files.
// Values stay in the tree, so that its value log never needs collecting.
// Checksums are not verified at reads, because damage that is found there
// panics in a goroutine of Badger's own.
func settings(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(nil).
		WithMetricsEnabled(false).
		WithMemTableSize(8 << 20).
		WithNumMemtables(3).
		WithBaseTableSize(4 << 20).
		WithValueLogFileSize(64 << 20).
		WithIndexCacheSize(16 << 20).
		WithBlockCacheSize(8 << 20).
		WithCompression(options.None).
		WithNumCompactors(2).
		WithDetectConflicts(false).
		WithSyncWrites(false)
}

// DiskBytes is what dir takes on disk, holes in sparse files not counted.
func DiskBytes(dir string) int64 {
	var total int64
	// Files come and go under the walk; what is gone takes nothing.
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if info, err := entry.Info(); err == nil {
			total += allocated(info)
		}
		return nil
	})
	return total
}

// allocated is what a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512 // st_blocks counts in 512 bytes on every system
	}
	return info.Size()
}
