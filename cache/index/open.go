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

// maxTries is how often an index may take the whole process down with it
// before it is set aside: once may have been a power cut.
const maxTries = 2

// keptAside is how many indexes that were set aside are kept for whoever wants
// to know why.
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

// Index is the open index. Its methods may be called at any time by anyone.
type Index struct {
	Options
	held heldDir
	path string // of the data directory, whatever is mounted over Dir

	mu       sync.Mutex
	db       *database   // nil once Close has begun
	lost     bool        // a database was given up, and may still use held
	inMemory atomic.Bool // db is

	changed atomic.Bool // since the last snapshot
	rotten  atomic.Bool // the last snapshot has what could not be read
	stop    chan struct{}
	running sync.WaitGroup
	closing sync.Once
	closed  error // what Close returns
}

// Open opens the index below the data directory. An index is worth less than
// a start: one that its check, in a process of its own, finds damaged, that
// Badger cannot open, or that has lost half of what the snapshot knows is set
// aside as index.bad-<time>, and one that the snapshot restores takes its
// place. Where the disk takes no index, on a full or read-only file system, it
// lives in memory: see InMemory.
//
// Should the process still die in Badger's opening, because there was no check
// or it has missed something, the tries are counted in a file, and an index
// under which it died twice is set aside at the third start.
func Open(o Options) (*Index, error) {
	held, path, err := holdDir(o.Dir)
	if err != nil {
		return nil, err
	}
	x := &Index{Options: o, held: held, path: path, stop: make(chan struct{})}
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

// InMemory reports whether the index is in memory only: the disk took none, or
// the one on disk was given up.
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
		if full := x.roomOnDisk(); full != nil { // then that is why, and the index may be sound
			return nil, errors.Join(full, err)
		}
		if err := x.setAside(dir, err); err != nil {
			return nil, err
		}
	}
	return x.renew(dir)
}

// openThere opens the index that lies in dir.
func (x *Index) openThere(dir string) (*database, error) {
	tries := x.tries()
	if err := x.presentable(dir, tries); err != nil {
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

// setAside takes an index out of the way, because of why. What is known
// against it is forgotten only once it is gone from its place for good.
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

// presentable returns why an index should not even be opened.
func (x *Index) presentable(dir string, tries tries) error {
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

// complete holds an index against the last snapshot. An error says that it has
// lost more than half of what that has. What else it lacks is restored: some
// of it may have been forgotten since, and is forgotten again when an upstream
// is asked.
func (x *Index) complete(db *database) error {
	if err := checkFormat(db); err != nil {
		return err
	}
	known, err := snapshotRecords(filepath.Join(x.path, snapshotName))
	if err != nil {
		return nil //nolint:nilerr // no snapshot, no measure
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

// settings keep Badger small: some tens of MiB of memory and of empty files.
// Values stay in the tree, so that its value log never needs collecting.
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
