package blobs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/failpoint"
)

// noteSuffix and newSuffix make the names of a download's note, and of one
// that is being written.
const (
	noteSuffix = ".note"
	newSuffix  = ".new"
)

// maxNote is the size in bytes of the largest note that is read.
const maxNote = 1 << 20

// Save writes to disk what the download has so far, and then a note beside it
// that may speak of it. Whatever happens, the note that is found later is this
// one, or the one before. One goroutine saves at a time.
func (w *Writer) Save(note []byte) error {
	failpoint.At(failpoint.SaveBegun)
	if err := w.sync(); err != nil {
		return err
	}
	failpoint.At(failpoint.SaveSynced)
	name := partialPath(w.digest) + noteSuffix
	if err := w.store.writeNew(name, note); err != nil {
		return fmt.Errorf("save the note: %w", err)
	}
	failpoint.At(failpoint.SaveWritten)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return errors.Join(ErrDiscarded, w.store.root.Remove(name+newSuffix))
	}
	err := w.store.root.Rename(name+newSuffix, name)
	failpoint.At(failpoint.SaveRenamed)
	return err
}

// Leave ends the download and lets its file lie, with the last note that was
// saved.
func (w *Writer) Leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return
	}
	_ = w.file.Close()
	w.name = ""
}

// Resume goes on with a download of d that was left, or that a former process
// did not end, and returns what it is. The error is fs.ErrNotExist when there
// is none.
func (s *Store) Resume(d digest.Digest) (*Writer, Partial, error) {
	name := partialPath(d)
	note, err := s.note(name + noteSuffix)
	if err != nil {
		return nil, Partial{}, err
	}
	f, err := s.root.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Partial{}, err
	}
	info, err := regular(f)
	if err != nil {
		_ = f.Close()
		return nil, Partial{}, err
	}
	p := Partial{Digest: d, Note: note, Size: info.Size(), Modified: info.ModTime()}
	return &Writer{store: s, digest: d, file: f, name: name}, p, nil
}

// Partial is a download that was left, or that a former process did not end.
type Partial struct {
	Digest   digest.Digest
	Note     []byte    // empty when there is none
	NoteErr  error     // why the note that is there cannot be read now; or nil
	Size     int64     // bytes, up to the last that was written
	Room     int64     // bytes that it takes on disk
	Modified time.Time // when
}

// Partials calls keep with each download that a former process left behind,
// and removes it unless keep says so; one that cannot be looked at now stays
// where it is. It returns how many were removed, and the first failure.
func (s *Store) Partials(keep func(Partial) bool) (removed int, err error) {
	entries, err := fs.ReadDir(s.root.FS(), partialDir)
	if err != nil {
		return 0, err
	}
	kept := make(map[string]bool)
	for _, entry := range entries {
		p, unseen := s.partial(entry)
		if unseen != nil && !Absent(unseen) {
			err = cmp.Or(err, unseen)
		}
		if unseen == nil && keep(p) || unseen != nil && !Absent(unseen) {
			kept[entry.Name()] = true
			kept[entry.Name()+noteSuffix] = true
		}
	}
	for _, entry := range entries {
		name := entry.Name()
		if kept[name] {
			continue
		}
		if stays := s.root.RemoveAll(path.Join(partialDir, name)); stays != nil {
			err = cmp.Or(err, stays)
		} else if !strings.Contains(name, noteSuffix) {
			removed++
		}
	}
	return removed, err
}

// partial describes what an entry of the directory is. Absent knows the error
// when it is no download.
func (s *Store) partial(entry fs.DirEntry) (Partial, error) {
	algorithm, hash, _ := strings.Cut(entry.Name(), "-")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hash)
	if d.Validate() != nil {
		return Partial{}, fs.ErrNotExist
	}
	info, err := entry.Info()
	if err != nil {
		return Partial{}, err
	}
	if !info.Mode().IsRegular() {
		return Partial{}, errNotRegular
	}
	p := Partial{Digest: d, Size: info.Size(), Room: allocated(info), Modified: info.ModTime()}
	if p.Note, err = s.note(partialPath(d) + noteSuffix); err != nil {
		p.Note = nil
		if !Absent(err) {
			p.NoteErr = err
		}
	}
	return p, nil
}

func (s *Store) note(name string) ([]byte, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxNote))
}

// RemovePartial removes the download of d, whatever it is that stands there.
// It is no error when there is nothing.
func (s *Store) RemovePartial(d digest.Digest) error {
	return errors.Join(s.root.RemoveAll(partialPath(d)), s.removeNote(d))
}

func (s *Store) removeNote(d digest.Digest) error {
	err := s.root.Remove(partialPath(d) + noteSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func partialPath(d digest.Digest) string {
	return path.Join(partialDir, d.Algorithm().String()+"-"+d.Encoded())
}
