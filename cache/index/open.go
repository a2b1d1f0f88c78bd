package index

import (
	"errors"
	"fmt"
	"io/fs"
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
	db       *badger.DB
	inMemory bool

	changed atomic.Bool // since the last snapshot
	rotten  atomic.Bool // the last snapshot has what could not be read
	stop    chan struct{}
	running sync.WaitGroup
}

// Open opens the index below the data directory. An index is worth less than
// a start: one that Badger cannot open, that makes it panic, or that has lost
// what the snapshot knows is set aside as index.bad-<time>, and one that the
// snapshot restores takes its place. Where the disk takes no index, on a full
// or read-only file system, it lives in memory: InMemory tells.
//
// A damaged table panics in a goroutine of Badger's own, where nobody can
// recover. So the tries are counted in a file, and an index under which the
// process died twice while opening is set aside at the third start.
func Open(o Options) (*Index, error) {
	x := &Index{Options: o, stop: make(chan struct{})}
	err := x.room()
	if err == nil {
		err = x.onDisk()
	}
	if err != nil {
		o.Log.Warn("there is no index on disk; what is learned now is forgotten at the next start", "err", err)
		x.inMemory = true
		if x.db, err = open(badger.DefaultOptions("").WithInMemory(true)); err != nil {
			return nil, err
		}
		if err := x.restore(); err != nil { // what is there will do
			o.Log.Warn("the index in memory could not be filled from the snapshot", "err", err)
			x.rotten.Store(true)
		}
	}
	x.running.Go(x.keep)
	return x, nil
}

// InMemory tells that the disk took no index.
func (x *Index) InMemory() bool { return x.inMemory }

// onDisk opens the index in its directory, or a new one.
func (x *Index) onDisk() error {
	dir := filepath.Join(x.Dir, indexName)
	if !notThere(dir) {
		err := x.openThere(dir)
		if err == nil {
			return nil
		}
		if err := x.setAside(dir, err); err != nil {
			return err
		}
	}
	return x.renew(dir)
}

// openThere opens the index that lies in dir. After an error it is closed.
func (x *Index) openThere(dir string) (err error) {
	tries := x.tries()
	if err := x.presentable(dir, tries); err != nil {
		return err
	}
	tries.add()
	if x.db, err = open(settings(dir)); err != nil {
		return err
	}
	tries.clear()
	if err = x.complete(); err != nil {
		_ = guarded(x.db.Close)
	}
	return err
}

// setAside takes an index out of the way, because of why. What is known
// against it is forgotten only once it is gone from its place for good.
func (x *Index) setAside(dir string, why error) error {
	aside := filepath.Join(x.Dir, asideName+time.Now().UTC().Format("20060102T150405.000Z"))
	failpoint.At(failpoint.AsideBegun)
	if err := os.Rename(dir, aside); err != nil {
		return fmt.Errorf("%w; setting it aside: %w", why, err)
	}
	failpoint.At(failpoint.AsideRenamed)
	if err := syncDir(x.Dir); err != nil {
		return fmt.Errorf("%w; setting it aside: %w", why, err)
	}
	failpoint.At(failpoint.AsideSynced)
	x.Log.Warn("the index was set aside; a new one is made of the files and the snapshot", "err", why, "aside", aside)
	return nil
}

// presentable tells why an index should not even be opened.
func (x *Index) presentable(dir string, tries tries) error {
	if tries.count() >= maxTries {
		return fmt.Errorf("the process died %d times while opening it", maxTries)
	}
	if !notThere(filepath.Join(x.Dir, damagedName)) {
		return errors.New("the last process found damage in it")
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err == nil && len(tables) > 0 && notThere(filepath.Join(dir, badger.ManifestFilename)) {
		// Badger would make a new list, empty, and delete the tables.
		return errors.New("its list of tables is missing")
	}
	return nil
}

// complete tells whether the index still knows what it knew at the last
// snapshot. Some of that may have been forgotten since.
func (x *Index) complete() error {
	known, err := snapshotRecords(filepath.Join(x.Dir, snapshotName))
	if err != nil {
		return nil //nolint:nilerr // no snapshot, no measure
	}
	count, err := x.count()
	if err != nil {
		return err
	}
	if count < known/2 {
		return fmt.Errorf("it has %d records, and had %d at the last snapshot", count, known)
	}
	return nil
}

// keep looks for damage once, and then writes snapshots until Close.
func (x *Index) keep() {
	x.snapshot() // where the one before was damaged
	x.inspect()
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

// inspect verifies Badger's checksums. They are not verified at reads, because
// damage that is found there panics in a goroutine of Badger's own; what is
// found here has the next start set the index aside.
func (x *Index) inspect() {
	if x.inMemory {
		return
	}
	err := guarded(x.db.VerifyChecksum)
	if err == nil {
		return
	}
	x.damaged(err)
}

// damaged has the next start make a new index.
func (x *Index) damaged(err error) {
	x.Log.Warn("the index is damaged; the next start makes a new one of the files and the snapshot", "err", err)
	f, err := os.OpenFile(filepath.Join(x.Dir, damagedName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_ = f.Close()
	}
}

// Close writes a snapshot and what is in memory, and gives the directory back.
// On a full disk Badger's own closing would kill the process, and on one that
// takes no new file it would try for ever; what it has not written then, it
// finds in its log the next time.
func (x *Index) Close() error {
	close(x.stop)
	x.running.Wait()
	x.snapshot()
	if err := x.room(); err != nil {
		return err
	}
	return guarded(x.db.Close)
}

// tries is a file whose length is the number of openings that did not end.
type tries string

func (x *Index) tries() tries { return tries(filepath.Join(x.Dir, openingName)) }

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

// syncDir writes a directory's entries to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func notThere(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// open is badger.Open without those panics that can be caught.
func open(o badger.Options) (db *badger.DB, err error) {
	err = guarded(func() error {
		db, err = badger.Open(o.WithLogger(nil).WithMetricsEnabled(false))
		return err
	})
	return db, err
}

var errPanicked = errors.New("badger panicked")

// guarded turns a panic of Badger into an error.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return do()
}

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
