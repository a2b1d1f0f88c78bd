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

// Writer writes the partial file of one download. Commit, Leave or Discard ends
// it. Bytes may be written at any offset, by several goroutines.
type Writer struct {
	store  *Store
	digest digest.Digest
	file   *os.File

	mu     sync.Mutex
	name   string // path of the file; empty once it was removed or left
	unsafe error  // of the first failed sync, see sync
}

// ErrDiscarded means that the partial file was discarded or left.
var ErrDiscarded = errors.New("the download was discarded")

// Create creates the partial file of d. It replaces an existing one.
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

// Allocate allocates size bytes in the file system, so that a full disk is found
// before the first byte and not in the middle. It is no error if the file system
// cannot allocate.
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

// ReadAt reads written bytes into p from the offset off.
func (w *Writer) ReadAt(p []byte, off int64) (int, error) { return w.file.ReadAt(p, off) }

// Sound is Store.Sound of the partial file.
func (w *Writer) Sound() error { return w.store.Sound(w.file) }

// Open opens the file for one reader: before and after Commit, not after Discard
// or Leave (ErrDiscarded).
func (w *Writer) Open() (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return nil, ErrDiscarded
	}
	return w.store.root.OpenFile(w.name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
}

// Commit makes the partial file the blob of its digest, of size bytes and of a
// class, replacing whatever has that name, and returns its Stat. The caller has
// verified the content. After an error there is no blob, and the file is removed;
// readers that have it open are not affected.
//
// The order is made for power cuts: the content is on disk before the final name.
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
	if err := w.store.root.RemoveAll(blobPath(w.digest, 1-class)); err != nil { // a digest has one file
		return Stat{}, err
	}
	failpoint.At(failpoint.CommitCleared)
	final := blobPath(w.digest, class)
	if err := w.store.moveInto(path.Dir(final), func() error { return w.rename(final) }); err != nil { // the commit point
		return Stat{}, err
	}
	failpoint.At(failpoint.CommitPlaced)
	_ = w.store.removeNote(w.digest) // else the next start removes it
	failpoint.At(failpoint.CommitTidied)
	if stat, err = w.store.Stat(w.file); err == nil && stat.Size != size {
		// Somebody else has changed the file since it has its name. What has this
		// Stat is trusted, so it must be what was written.
		err = fmt.Errorf("the file has %d bytes, and %d were written", stat.Size, size)
	}
	return stat, errors.Join(err, w.file.Close())
}

// sync writes the content to disk. After a failed fsync Linux marks the pages it
// could not write as clean, so that a later success means nothing: the first
// error stays.
func (w *Writer) sync() error {
	err := w.file.Sync()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.unsafe == nil {
		w.unsafe = fmt.Errorf("sync the content: %w", err)
	}
	return w.unsafe
}

// rename gives the file its final name. w.mu excludes readers that open it.
func (w *Writer) rename(final string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return ErrDiscarded
	}
	err := w.store.root.Rename(w.name, final)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EISDIR) { // there is a directory of that name
		err = errors.Join(w.store.root.RemoveAll(final), w.store.root.Rename(w.name, final))
	}
	if err != nil {
		return err
	}
	w.name = final
	return nil
}

// Discard ends the download and removes the partial file. It must not be called
// after Commit has succeeded.
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

// ensure creates a directory if it is missing, and reports whether it was.
func (s *Store) ensure(dir string) (created bool, err error) {
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
