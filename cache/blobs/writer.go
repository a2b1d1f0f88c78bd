package blobs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/failpoint"
)

// Writer is one download on its way to becoming a blob. It is ended by Commit
// or Discard. Bytes may be written anywhere, from several goroutines.
type Writer struct {
	store  *Store
	digest digest.Digest
	file   *os.File

	mu     sync.Mutex
	name   string // where the file lies now; empty once it has no name
	unsafe error  // of a failed sync: what it did not write, no later one need write either
}

// ErrDiscarded says that a download's file is gone.
var ErrDiscarded = errors.New("the download was discarded")

// Create begins a download of d. What an earlier one left is removed.
func (s *Store) Create(d digest.Digest) (*Writer, error) {
	name := partialPath(d)
	if err := s.RemovePartial(d); err != nil {
		s.refusing(err)
		return nil, err
	}
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		s.refusing(err)
		return nil, err
	}
	s.trial.spent.Add(trialOfFile)
	return &Writer{store: s, digest: d, file: f, name: name}, nil
}

// Allocate has the file system set size bytes aside, so that a full disk
// shows before the first byte and not in the middle. A file system that
// cannot is no error.
func (w *Writer) Allocate(size int64) error {
	err := allocate(w.file, size)
	w.store.refusedRoom(err)
	return err
}

// WriteAt writes p at the offset off.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.file.WriteAt(p, off)
	w.store.trial.spent.Add(int64(n))
	w.store.refusedRoom(err)
	return n, err
}

// ReadAt reads what was written.
func (w *Writer) ReadAt(p []byte, off int64) (int, error) { return w.file.ReadAt(p, off) }

// Sound is Store.Sound of the download.
func (w *Writer) Sound() error { return w.store.Sound(w.file) }

// Open returns a file of its own on the download, for one reader: before and
// after Commit, not after Discard (ErrDiscarded).
func (w *Writer) Open() (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return nil, ErrDiscarded
	}
	return w.store.root.OpenFile(w.name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
}

// Commit makes the download the blob of its digest, of size bytes and of a
// class, in place of whatever stood there, and returns what it looks like. The caller has verified the content. After an error there
// is no blob, and the file is removed; readers that have it open go on.
//
// The order is what a power cut asks for: the content is on disk before the
// name that promises it.
func (w *Writer) Commit(size int64, class Class) (stat Stat, err error) {
	defer func() {
		if err != nil {
			w.Discard()
		}
	}()
	failpoint.At(failpoint.CommitBegun)
	if err := w.file.Truncate(size); err != nil {
		return Stat{}, fmt.Errorf("set the length: %w", err)
	}
	failpoint.At(failpoint.CommitTruncated)
	if err := w.sync(); err != nil {
		return Stat{}, err
	}
	failpoint.At(failpoint.CommitSynced)
	if err := w.store.root.RemoveAll(blobPath(w.digest, 1-class)); err != nil { // of two files one counts
		return Stat{}, err
	}
	failpoint.At(failpoint.CommitCleared)
	final := blobPath(w.digest, class)
	if err := w.store.moveInto(path.Dir(final), func() error { return w.rename(final) }); err != nil { // the commit point
		return Stat{}, err
	}
	failpoint.At(failpoint.CommitPlaced)
	_ = w.store.removeNote(w.digest) // else the next start does
	failpoint.At(failpoint.CommitTidied)
	stat, err = w.store.Stat(w.file)
	return stat, errors.Join(err, w.file.Close())
}

// sync writes the content to disk. After a failure the system takes pages for
// written that are not (Linux marks them clean), so that a later success means
// nothing: the first error stays.
func (w *Writer) sync() error {
	err := w.file.Sync()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.unsafe == nil {
		w.unsafe = fmt.Errorf("sync the content: %w", err)
	}
	return w.unsafe
}

// rename gives the file its final name while no reader is opening it.
func (w *Writer) rename(final string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return ErrDiscarded
	}
	err := w.store.root.Rename(w.name, final)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EISDIR) { // a directory in the blob's place
		err = errors.Join(w.store.root.RemoveAll(final), w.store.root.Rename(w.name, final))
	}
	if err != nil {
		return err
	}
	w.name = final
	return nil
}

// Discard ends the download and removes its file. After Commit's success it
// must not be called.
func (w *Writer) Discard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return
	}
	// A file that cannot be removed now is removed at the next start.
	_ = w.store.root.Remove(w.name)
	_ = w.store.removeNote(w.digest)
	_ = w.file.Close()
	w.name = ""
}

// ensure makes a directory, and tells whether it had to.
func (s *Store) ensure(dir string) (made bool, err error) {
	err = s.root.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// sync writes a directory's entries to disk.
func (s *Store) sync(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
