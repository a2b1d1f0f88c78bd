package index

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"hubcap/cache/failpoint"
)

// maxTries is how often the process may die while it opens an index before the
// index is set aside: once may have been a power cut.
const maxTries = 2

// keptAside is how many indexes that were set aside are kept for examination.
const keptAside = 2

// The names below the data directory.
const (
	indexName    = "index"
	newName      = "index.new" // one that is being made
	asideName    = "index.bad-"
	openingName  = "index.opening" // its length is the number of openings that did not end
	damagedName  = "index.damaged" // there when the last process found damage
	snapshotName = "snapshot"
	rottenName   = "snapshot.bad" // the last one that was not read to its end
)

// Options is what an Index needs; every field is required.
type Options struct {
	Dir      string                // the data directory
	Room     func() (int64, error) // bytes that its file system has room for
	Reserve  int64                 // bytes that it must have room for, or the index is not written
	Interval time.Duration         // between two snapshots
	Log      *slog.Logger
}

// Index is the open index. Its methods are safe for concurrent use.
type Index struct {
	Options
	held heldDir
	path string // of the data directory, whatever is mounted over Dir

	mu       sync.Mutex
	db       *database   // nil once Close has begun
	lost     bool        // a database was abandoned, and may still use held
	inMemory atomic.Bool // db is

	changed atomic.Bool   // since the last snapshot
	rotten  atomic.Bool   // the last snapshot has what could not be read
	soon    chan struct{} // a snapshot is to be written at once
	stop    chan struct{}
	running sync.WaitGroup
	closing sync.Once
	closed  error // what Close returns
}

// Open opens the index below the data directory. It succeeds whatever has
// happened to the index: one that its check, in a separate process, finds
// damaged, that Badger cannot open, or that has lost half of the records of the
// snapshot is set aside as index.bad-<time>, and replaced by a new one that is
// filled from the snapshot. On a file system that is full or read-only, the index
// is kept in memory: see InMemory.
//
// If the process dies while Badger opens the index, because there was no check or
// the check has missed something, the tries are counted in a file, and after
// maxTries the index is set aside.
func Open(o Options) (*Index, error) {
	held, path, err := holdDir(o.Dir)
	if err != nil {
		return nil, err
	}
	x := &Index{Options: o, held: held, path: path, soon: make(chan struct{}, 1), stop: make(chan struct{})}
	if x.db, err = x.onDisk(); err != nil {
		o.Log.Warn("there is no index on disk; what is learned now is forgotten at the next start", "err", err)
		x.inMemory.Store(true)
		if x.db = x.inPlaceOf(); x.db == nil {
			return nil, errors.Join(err, held.Close())
		}
	}
	x.running.Go(x.keep)
	return x, nil
}

// InMemory reports whether the index is in memory only: there was no room on
// disk, or the one on disk was abandoned.
func (x *Index) InMemory() bool { return x.inMemory.Load() }

// onDisk opens the index in its directory, or a new one.
func (x *Index) onDisk() (*database, error) {
	if err := x.roomOnDisk(); err != nil {
		return nil, err
	}
	dir := filepath.Join(x.path, indexName)
	if !notThere(dir) {
		db, err := x.openThere(dir)
		if err == nil {
			return db, nil
		}
		if full := x.roomOnDisk(); full != nil { // the reason, and the index may be right
			return nil, errors.Join(full, err)
		}
		if err := x.setAside(dir, err); err != nil {
			return nil, err
		}
	}
	return x.renew(dir)
}

// openThere opens the existing index in dir.
func (x *Index) openThere(dir string) (*database, error) {
	tries := x.tries()
	if err := x.knownDamage(dir, tries); err != nil {
		return nil, err
	}
	if err := x.check(); err != nil {
		return nil, err
	}
	tries.add()
	db, err := open(settings(dir))
	if err != nil {
		return nil, err
	}
	tries.clear()
	if err := guarded(func() error { return x.complete(db) }); err != nil {
		if x.lost = errors.Is(err, errPanicked); !x.lost {
			_ = guarded(db.Close)
		}
		return nil, err
	}
	return db, nil
}

// setAside renames an index, because of why. The files that mark it as damaged are
// removed later, once the new name is on disk.
func (x *Index) setAside(dir string, why error) error {
	aside := filepath.Join(x.path, asideName+time.Now().UTC().Format("20060102T150405.000Z"))
	failpoint.At(failpoint.AsideBegun)
	if err := os.Rename(dir, aside); err != nil {
		return fmt.Errorf("%w; setting it aside: %w", why, err)
	}
	failpoint.At(failpoint.AsideRenamed)
	if err := syncDir(x.path); err != nil {
		return fmt.Errorf("%w; setting it aside: %w", why, err)
	}
	failpoint.At(failpoint.AsideSynced)
	x.Log.Warn("the index was set aside; a new one is made of the files and the snapshot", "err", why, "aside", filepath.Join(x.Dir, filepath.Base(aside)))
	return nil
}

// knownDamage returns why an index should not be opened, as far as that is known
// before.
func (x *Index) knownDamage(dir string, tries tries) error {
	if tries.count() >= maxTries {
		return fmt.Errorf("the process died %d times while opening it", maxTries)
	}
	if !notThere(filepath.Join(x.path, damagedName)) {
		return errors.New("the last process found damage in it")
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err == nil && len(tables) > 0 && notThere(filepath.Join(dir, badger.ManifestFilename)) {
		// Badger would make a new list, empty, and delete the tables.
		return errors.New("its list of tables is missing")
	}
	return nil
}

// complete compares an index with the last snapshot. It is an error if the index
// has lost more than half of the snapshot's records; fewer that it lacks are
// restored. Records that were removed after the snapshot come back that way, until
// an upstream is asked.
func (x *Index) complete(db *database) error {
	if err := checkFormat(db); err != nil {
		return err
	}
	known, err := snapshotRecords(filepath.Join(x.path, snapshotName))
	if err != nil {
		return nil //nolint:nilerr // there is no snapshot to compare with
	}
	count, err := count(db)
	switch {
	case err != nil:
		return err
	case count < known/2:
		return fmt.Errorf("it has %d records, and had %d at the last snapshot", count, known)
	case count < known:
		return x.restore(db)
	}
	return nil
}

// keep writes snapshots until Close.
func (x *Index) keep() {
	if x.rotten.Load() {
		x.snapshot()
	}
	tick := time.NewTicker(x.Interval)
	defer tick.Stop()
	for {
		select {
		case <-x.stop:
			return
		case <-tick.C:
			x.snapshot()
		case <-x.soon:
			x.snapshot()
		}
	}
}

// tries is a file whose length is the number of openings that did not end.
type tries string

func (x *Index) tries() tries { return tries(filepath.Join(x.path, openingName)) }

func (t tries) count() int64 {
	info, err := os.Stat(string(t))
	if err != nil {
		return 0
	}
	return info.Size()
}

// add and clear ignore errors: an uncounted try is better than no start.
func (t tries) add() { _ = os.WriteFile(string(t), make([]byte, t.count()+1), 0o600) }

func (t tries) clear() { _ = os.Remove(string(t)) }

// settings returns options for a small Badger, of some tens of MiB of memory and of
// empty files. Values stay in the tree, so that its value log needs no garbage
// collection.
func settings(dir string) badger.Options {
	return badger.DefaultOptions(dir).
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
