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

// noteSuffix and newSuffix make the names of a partial file's note, and of a file
// that is being written to replace another one.
const (
	noteSuffix = ".note"
	newSuffix  = ".new"
)

// maxNote is the size in bytes of the largest note that is read.
const maxNote = 1 << 20

// Save writes the partial file to disk, and then a note beside it. The note that
// is found later, also after a power cut, is this one or the one before, and what
// it describes is on disk. One goroutine saves at a time.
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

// Leave ends the download and keeps its partial file, with the note that was
// saved last.
func (w *Writer) Leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return
	}
	_ = w.file.Close()
	w.name = ""
}

// Resume opens the partial file of d, which Leave or an earlier process left, and
// describes it. Absent reports whether the error means that there is none.
func (s *Store) Resume(d digest.Digest) (*Writer, Partial, error) {
	p, err := s.Partial(d)
	if err = cmp.Or(err, p.NoteErr); err != nil {
		return nil, Partial{}, err
	}
	name := partialPath(d)
	f, err := s.root.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Partial{}, err
	}
	return &Writer{store: s, digest: d, file: f, name: name}, p, nil
}

// Partial describes a partial file.
type Partial struct {
	Digest   digest.Digest
	Note     []byte    // empty if there is none
	NoteErr  error     // why an existing note cannot be read now, or nil
	Size     int64     // bytes up to the last that was written
	Room     int64     // bytes on disk
	Modified time.Time // last
}

// Partials calls keep with each partial file, and removes those for which it
// returns false. A partial file that cannot be examined now is kept. It returns
// how many were removed, and the first error.
func (s *Store) Partials(keep func(Partial) bool) (removed int, err error) {
	entries, err := fs.ReadDir(s.root.FS(), partialDir)
	if err != nil {
		return 0, err
	}
	kept := make(map[string]bool)
	for _, entry := range entries {
		algorithm, hash, _ := strings.Cut(entry.Name(), "-")
		p, unseen := s.Partial(digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hash))
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

// Partial describes the partial file of d. Absent reports whether the error means
// that there is none.
func (s *Store) Partial(d digest.Digest) (Partial, error) {
	if d.Validate() != nil {
		return Partial{}, fs.ErrNotExist
	}
	info, err := s.root.Lstat(partialPath(d))
	if err != nil {
		return Partial{}, err
	}
	if !info.Mode().IsRegular() {
		return Partial{}, errNotRegular
	}
	p := Partial{Digest: d, Size: info.Size(), Room: allocated(info), Modified: info.ModTime()}
	if note, err := s.note(partialPath(d) + noteSuffix); err == nil {
		p.Note = note
	} else if !Absent(err) {
		p.NoteErr = err
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

// RemovePartial removes the partial file of d, or whatever has its name, and its
// note. It is no error if there is neither.
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
