package index

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"hubcap/cache/failpoint"
)

// renew makes a new index from the snapshot and opens it. The index is made
// under another name, and renamed once it is complete and on disk: after a kill
// or a power cut, the next start finds a complete index or none.
func (x *Index) renew(dir string) (*database, error) {
	fresh := filepath.Join(x.path, newName)
	failpoint.At(failpoint.RestoreBegun)
	if err := os.RemoveAll(fresh); err != nil { // left by a start that did not end
		return nil, err
	}
	failpoint.At(failpoint.RestoreCleared)
	if err := x.fillNew(fresh); err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh))
	}
	failpoint.At(failpoint.RestoreFilled)
	if err := os.Rename(fresh, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh))
	}
	failpoint.At(failpoint.RestoreRenamed)
	if err := syncDir(x.path); err != nil {
		return nil, err
	}
	failpoint.At(failpoint.RestoreSynced)
	x.tries().clear()
	_ = os.Remove(filepath.Join(x.path, damagedName))
	x.prune()
	failpoint.At(failpoint.RestoreTidied)
	return open(settings(dir))
}

// fillNew makes an index in dir. All of it is on disk when fillNew returns.
func (x *Index) fillNew(dir string) error {
	db, err := open(settings(dir))
	if err != nil {
		return err
	}
	failpoint.At(failpoint.RestoreOpened)
	err = guarded(func() error { return cmp.Or(writeFormat(db), x.restore(db)) })
	if x.lost = errors.Is(err, errPanicked); x.lost {
		return err
	}
	failpoint.At(failpoint.RestoreWritten)
	if err == nil {
		err = x.room(db) // Badger writes when it closes
	}
	if err != nil { // the drop makes Close write nothing, and frees the room
		return errors.Join(err, guarded(db.DropAll), guarded(db.Close))
	}
	return guarded(db.Close)
}

// prune removes the indexes that were set aside, except the last keptAside.
func (x *Index) prune() {
	aside, err := filepath.Glob(filepath.Join(x.path, asideName+"*"))
	if err != nil {
		return
	}
	slices.Sort(aside) // by time
	for len(aside) > keptAside {
		if err := os.RemoveAll(aside[0]); err != nil {
			x.Log.Warn("an old index cannot be removed", "dir", aside[0], "err", err)
		}
		aside = aside[1:]
	}
}

// restore adds those records of the snapshot that the index does not have. An
// unreadable snapshot is not an error: upstreams are asked again for what it
// had. A failure to write the index is one.
func (x *Index) restore(db *database) error {
	f, err := os.Open(filepath.Join(x.path, snapshotName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var restored int
	var unread error
	if err != nil {
		unread = err
	} else {
		defer f.Close()
		restored, unread, err = x.restoreFrom(db, bufio.NewReaderSize(f, 64<<10))
		if err != nil {
			return err
		}
	}
	if unread != nil {
		x.Log.Warn("not all of the snapshot of the tags can be read; it is kept as snapshot.bad", "restored", restored, "err", unread)
		x.rotten.Store(true)
		x.changed.Store(true)
		return nil
	}
	x.Log.Info("the index was filled from the snapshot", "records", restored)
	return nil
}

// roomEach is how many records are restored between two checks of the free
// space.
const roomEach = 1024

// restoreFrom restores each line that is a record; unread is why the first line
// that is not was left out.
func (x *Index) restoreFrom(db *database, r *bufio.Reader) (restored int, unread, err error) {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	for number := 1; ; number++ {
		line, end := r.ReadBytes('\n')
		switch {
		case len(bytes.TrimSpace(line)) == 0:
		case number == 1:
			if _, err := readHeader(line); err != nil {
				return 0, err, nil
			}
		default:
			key, value, err := parseLine(line)
			if err != nil {
				unread = cmp.Or(unread, fmt.Errorf("line %d: %w", number, err))
				break
			}
			added, err := add(db, batch, key, value)
			if err != nil {
				return restored, unread, err
			}
			restored += added
		}
		if number%roomEach == 0 {
			if err := x.room(db); err != nil {
				return restored, unread, err
			}
		}
		if end != nil {
			if end != io.EOF {
				unread = cmp.Or(unread, end)
			}
			return restored, unread, batch.Flush()
		}
	}
}

// add writes a record unless db has it, and returns how many it wrote.
func add(db *database, batch *badger.WriteBatch, key string, value []byte) (added int, err error) {
	err = db.View(func(txn *badger.Txn) error {
		_, err := txn.Get([]byte(key))
		return err
	})
	if !errors.Is(err, badger.ErrKeyNotFound) {
		return 0, err
	}
	return 1, batch.Set([]byte(key), value)
}
