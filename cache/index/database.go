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

// closeWithin is how long Close waits for Badger, which writes at most one
// memory table and syncs it.
const closeWithin = 10 * time.Second

var (
	errPanicked  = errors.New("badger panicked")
	errClosed    = errors.New("the index is closed")
	errAbandoned = errors.New("the index was abandoned after a panic")
	errStuck     = fmt.Errorf("the index did not close within %v; the next start reads from its log what was not written", closeWithin)
)

// database is an open Badger.
//
// A panic in Badger may leave one of its locks taken, and all that needs the
// lock afterwards waits forever, Badger's own Close included. So after a panic
// the database is abandoned: it is neither used nor closed again.
type database struct {
	*badger.DB
	inMemory  bool
	using     sync.WaitGroup // calls under way; grows only under Index.mu, and not after Close has begun
	abandoned chan struct{}  // closed when the database is abandoned
}

// open is badger.Open; a panic is returned as an error.
func open(o badger.Options) (*database, error) { return openLogging(o, nil) }

func openLogging(o badger.Options, log badger.Logger) (*database, error) {
	db := &database{inMemory: o.InMemory, abandoned: make(chan struct{})}
	err := guarded(func() (err error) {
		db.DB, err = badger.Open(o.WithLogger(log).WithMetricsEnabled(false))
		return err
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// openInMemory opens an empty database that uses no disk.
func openInMemory() (*database, error) {
	return open(settings("").WithInMemory(true))
}

// guarded returns a panic of do as an error.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return do()
}

// acquire returns the database for one call, at whose end the caller calls
// using.Done.
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
	return x.checkPanic(db, guarded(func() error { return do(db) }))
}

// write calls do with the database. A write waits for goroutines of Badger, and
// these for its locks, so write returns early when the database is abandoned
// meanwhile. do may then still be running, and must not write to variables that
// its caller reads.
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
		return x.checkPanic(db, err)
	case <-db.abandoned:
		return errAbandoned
	}
}

// checkPanic abandons the database if err is a panic of Badger, and returns err.
func (x *Index) checkPanic(db *database, err error) error {
	if errors.Is(err, errPanicked) {
		x.abandon(db, err)
	}
	return err
}

// abandon replaces a database in which Badger has panicked by one in memory,
// filled from the snapshot. The next start makes a new one on disk. Calls that
// begin meanwhile wait.
func (x *Index) abandon(db *database, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db != db { // another call has, or Close has begun
		return
	}
	x.Log.Error("the index is abandoned after a panic: it is in memory until the next start, which makes a new one from the files and the snapshot", "err", why)
	x.lost = true
	close(db.abandoned)
	if !db.inMemory {
		// The next start makes a new index.
		_ = os.WriteFile(filepath.Join(x.path, damagedName), nil, 0o600)
	}
	x.inMemory.Store(true)
	x.db = x.inPlaceOf()
}

// inPlaceOf returns a database in memory, filled from as much of the snapshot as
// can be read; nil if Badger cannot be opened in memory either.
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

// Close writes a snapshot and what Badger has in memory, and releases the
// directory. Once it has begun, every other call fails. A Badger that does not
// close within closeWithin is left open. It is also left open without room on
// the disk: closing it would kill the process on a full disk, and retry forever
// where no file can be created. At the next start it reads what was not written
// from its log. A second Close does nothing.
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
