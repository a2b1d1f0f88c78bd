package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// closeWithin is how long Close waits for Badger: it writes at most a memory
// table and syncs it.
const closeWithin = 10 * time.Second

var (
	errPanicked = errors.New("badger panicked")
	errClosed   = errors.New("the index is closed")
	errGivenUp  = errors.New("the index was given up")
	errStuck    = fmt.Errorf("the index did not close within %v; the next start finds in its log what it had not written", closeWithin)
)

// database is an open Badger.
//
// A panic of Badger may leave one of its locks taken, and whatever needs that
// lock afterwards waits for ever, Badger's own Close included. So a database
// under which Badger has panicked is given up: it is neither used nor closed
// again.
type database struct {
	*badger.DB
	inMemory bool
	using    sync.WaitGroup // calls under way; grows only under Index.mu, and not once Close has begun
	givenUp  chan struct{}  // closed when it is
}

// open is badger.Open, with those panics that can be caught as errors.
func open(o badger.Options) (*database, error) { return openLogging(o, nil) }

func openLogging(o badger.Options, log badger.Logger) (*database, error) {
	db := &database{inMemory: o.InMemory, givenUp: make(chan struct{})}
	err := guarded(func() (err error) {
		db.DB, err = badger.Open(o.WithLogger(log).WithMetricsEnabled(false))
		return err
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// openInMemory opens an empty database that touches no disk.
func openInMemory() (*database, error) {
	return open(settings("").WithInMemory(true))
}

// guarded turns a panic into an error.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return do()
}

// acquire returns the database for one call, which ends with using.Done.
func (x *Index) acquire() (*database, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil {
		return nil, errClosed
	}
	x.db.using.Add(1)
	return x.db, nil
}

// read calls do with the database.
func (x *Index) read(do func(db *database) error) error {
	db, err := x.acquire()
	if err != nil {
		return err
	}
	defer db.using.Done()
	return x.judge(db, guarded(func() error { return do(db) }))
}

// write calls do with the database. A write waits for goroutines of Badger,
// and they for its locks, so it returns when the database is given up
// meanwhile; do may still be running then, and must not write to what its
// caller reads.
func (x *Index) write(do func(db *database) error) error {
	db, err := x.acquire()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer db.using.Done()
		done <- guarded(func() error { return do(db) })
	}()
	select {
	case err := <-done:
		return x.judge(db, err)
	case <-db.givenUp:
		return errGivenUp
	}
}

// judge gives the database up if Badger has panicked.
func (x *Index) judge(db *database, err error) error {
	if errors.Is(err, errPanicked) {
		x.giveUp(db, err)
	}
	return err
}

// giveUp puts an index in memory, filled from the snapshot, in the place of a
// database under which Badger has panicked, and has the next start make a new
// one on disk. Calls that begin meanwhile wait for it.
func (x *Index) giveUp(db *database, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db != db { // another call has, or Close has begun
		return
	}
	x.Log.Error("the index is given up: it lives in memory until the next start, which makes a new one of the files and the snapshot", "err", why)
	x.lost = true
	close(db.givenUp)
	if !db.inMemory {
		x.markDamaged()
	}
	x.inMemory.Store(true)
	x.db = x.inPlaceOf()
}

// inPlaceOf returns an index in memory, filled from the snapshot as far as
// that can be read; nil when there can be none.
func (x *Index) inPlaceOf() *database {
	db, err := openInMemory()
	if err != nil {
		x.Log.Error("there is no index, not even in memory", "err", err)
		return nil
	}
	if err := guarded(func() error { return x.restore(db) }); err != nil {
		x.Log.Warn("the index in memory could not be filled from the snapshot", "err", err)
		x.rotten.Store(true)
	}
	return db
}

// markDamaged has the next start make a new index.
func (x *Index) markDamaged() {
	f, err := os.OpenFile(filepath.Join(x.path, damagedName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_ = f.Close()
	}
}

// Close writes a snapshot and what is in memory, and gives the directory back.
// Once it has begun, every other call fails. A Badger that does not close is
// left behind. On a full disk closing it would kill the process, and on one
// that takes no new file it would try for ever; what it has not written then,
// it finds in its log the next time. A second Close does nothing.
func (x *Index) Close() error {
	x.closing.Do(func() {
		closed := make(chan error, 1)
		go func() { closed <- x.close() }()
		late := time.NewTimer(closeWithin)
		defer late.Stop()
		select {
		case x.closed = <-closed:
		case <-late.C:
			x.closed = errStuck
		}
	})
	return x.closed
}

func (x *Index) close() error {
	close(x.stop)
	x.running.Wait()
	x.snapshot()
	x.mu.Lock()
	db := x.db
	x.db = nil
	x.mu.Unlock()
	if db == nil {
		return nil
	}
	db.using.Wait()
	if err := x.room(db); err != nil {
		return err
	}
	if err := guarded(db.Close); err != nil || x.lost {
		return err
	}
	return x.held.Close()
}
