// Package blobs keeps content in files named by digest. It knows names,
// commit and removal; it knows neither what a file holds nor who wants it.
//
// Layout below the data directory:
//
//	layout                          the version of this layout
//	lock                            held by the one process that owns the directory
//	blobs/open/sha256/ab/abcd…      whole files; what has its final name was verified
//	blobs/closed/sha256/ab/abcd…    the same, of content that is not for everybody
//	partial/sha256-abcd…            downloads under way, or broken off
//	partial/sha256-abcd….note       what their maker wants to know when it goes on
//	ballast                         room, for the worst case
//
// A digest has one file, of one class. Every file name is made of a parsed
// digest and nothing else, and no symbolic link is followed.
//
// Files: store.go, check.go (whether a directory would do), class.go, writer.go (one download; Commit is the commit point),
// partial.go (downloads that go on another time), walk.go, space.go,
// trial.go (room that is tried), system_*.go (what differs between systems).
package blobs

import (
	_ "crypto/sha256" // the algorithms whose digests may name a file
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/failpoint"
)

// version is the layout that this package reads and writes, formerVersion one
// that it takes over: it had no closed files.
const (
	version       = "2\n"
	formerVersion = "1\n"
)

const partialDir = "partial"

// Store is the directory. Its methods may be called at any time by anyone,
// but those that change one digest exclude each other at the caller's.
type Store struct {
	root    *os.Root
	dir     *os.File // root's directory, for openBeneath
	lock    *os.File
	refused atomic.Pointer[time.Time] // when a file was last refused because the file system is read-only
	beat    atomic.Int64              // for Sound
	trial   trial
}

// Open takes the data directory dir, making it where it is missing. It fails
// when another process owns it or when its layout is not known; in neither
// case is a file touched.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the data directory: %w", err)
	}
	s := &Store{root: root}
	if s.dir, err = root.Open("."); err == nil {
		s.trial.useful = delaysWrites(s.dir)
		err = s.take()
	}
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	return s, nil
}

// take locks the directory and checks its layout.
func (s *Store) take() error {
	lock, err := s.root.OpenFile("lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, syscall.EROFS) { // what lies there can be served
		lock, err = s.root.OpenFile("lock", os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return err
	}
	s.lock = lock
	if err := lockFile(lock); err != nil {
		return errors.New("another hubcap is using it; stop that one, or set another HUBCAP_DATA_DIR")
	}
	if err := s.checkLayout(); err != nil {
		return err
	}
	for _, class := range classes {
		for _, algorithm := range algorithms {
			if err := s.root.MkdirAll(path.Join(class.dir(), algorithm.String()), 0o700); err != nil {
				return err
			}
		}
	}
	return s.root.MkdirAll(partialDir, 0o700)
}

func (s *Store) checkLayout() error {
	present, err := layoutOf(s.root)
	if err != nil || present {
		return err
	}
	return s.writeLayout()
}

// layoutOf reports whether a data directory has the present layout; otherwise it
// is to have it. The error is for one that this package does not know.
func layoutOf(root *os.Root) (present bool, err error) {
	found, err := root.ReadFile("layout")
	// A power cut leaves an empty one.
	if errors.Is(err, fs.ErrNotExist) || err == nil && (len(found) == 0 || string(found) == formerVersion) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if string(found) != version {
		return false, fmt.Errorf("its layout is version %q and this hubcap knows %q; use the hubcap that wrote it, or another directory",
			strings.TrimSpace(string(found)), strings.TrimSpace(version))
	}
	return true, nil
}

// writeLayout does so in such a way that a power cut leaves all of it, or none.
func (s *Store) writeLayout() error {
	if err := s.writeNew("layout", []byte(version)); err != nil {
		return err
	}
	failpoint.At(failpoint.LayoutWritten)
	if err := s.root.Rename("layout"+newSuffix, "layout"); err != nil {
		return err
	}
	failpoint.At(failpoint.LayoutRenamed)
	return s.sync(".")
}

// writeNew writes what is to take the place of a file to disk beside it.
func (s *Store) writeNew(name string, content []byte) error {
	f, err := s.root.OpenFile(name+newSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Close gives the directory back.
func (s *Store) Close() error {
	err := s.root.Close()
	if s.dir != nil {
		err = errors.Join(err, s.dir.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return errors.Join(err, s.trial.close())
}

// reading is how a blob is opened: O_NONBLOCK, so that a FIFO in its place does
// not hold us.
const reading = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// Stat is what a file looks like from outside.
type Stat struct {
	Size      int64  // bytes
	Signature uint64 // of size, inode and times: another one after any change
}

// Open returns the file of d for reading, and what it looks like. The error is
// fs.ErrNotExist when there is none of that class; anything but a regular file
// is an error.
func (s *Store) Open(d digest.Digest, class Class) (*os.File, Stat, error) {
	name := blobPath(d, class)
	f, err := openBeneath(s.dir, name)
	if err != nil { // os.Root opens each directory on the way, which every system can
		f, err = s.root.OpenFile(name, reading, 0)
	}
	if err != nil {
		return nil, Stat{}, err
	}
	stat, err := s.Stat(f)
	if err != nil {
		_ = f.Close()
		return nil, Stat{}, err
	}
	return f, stat, nil
}

// Stat tells what an open blob looks like now.
func (s *Store) Stat(f *os.File) (Stat, error) {
	info, err := regular(f)
	if err != nil {
		return Stat{}, err
	}
	return Stat{Size: info.Size(), Signature: signature(info)}, nil
}

var errNotRegular = errors.New("not a regular file")

// regular describes a file, and fails for anything else.
func regular(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", f.Name(), errNotRegular)
	}
	return info, err
}

// Absent reports whether err, of Open, Find or Resume, says that the file is not
// there: nothing is, or something that is no regular file. After any other error
// there may be a good file that cannot be read now.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) ||
		errors.Is(err, syscall.ENOTDIR) || // a file in place of a directory
		errors.Is(err, syscall.ELOOP) || // a symbolic link
		errors.Is(err, syscall.ENXIO) // a socket
}

// Find returns the class of the file of d and its size in bytes, without
// opening it. Absent knows the error when there is none.
func (s *Store) Find(d digest.Digest) (class Class, size int64, err error) {
	for _, class := range classes {
		info, statErr := s.root.Lstat(blobPath(d, class))
		switch {
		case statErr == nil && info.Mode().IsRegular():
			return class, info.Size(), nil
		case statErr == nil:
			statErr = errNotRegular
		}
		if err == nil || Absent(err) {
			err = statErr
		}
	}
	return 0, 0, err
}

// Remove takes the name from the file of d, whatever it is that stands there,
// and from a download of it. It is no error when there is nothing.
func (s *Store) Remove(d digest.Digest) error {
	err := errors.Join(s.root.RemoveAll(blobPath(d, ClassOpen)), s.root.RemoveAll(blobPath(d, ClassClosed)))
	failpoint.At(failpoint.RemoveUnlinked)
	s.trial.freed.Store(true)
	return errors.Join(err, s.RemovePartial(d))
}

// Dir is where the store's parts lie, for what shares the data directory.
func (s *Store) Dir(elem ...string) string {
	return filepath.Join(append([]string{s.root.Name()}, elem...)...)
}

// DirOf is what the digests have in common whose files lie in the directory
// of d's: "sha256:ab". Walk visits them together.
func DirOf(d digest.Digest) string { return d.String()[:len(d.Algorithm())+len(":ab")] }

// blobPath is where d lies. Two characters of the hash spread the files over
// 256 directories.
func blobPath(d digest.Digest, class Class) string {
	hash := d.Encoded()
	return path.Join(class.dir(), d.Algorithm().String(), hash[:2], hash)
}

// sum makes one number of several.
func sum(numbers []int64) uint64 {
	h := fnv.New64a()
	for _, n := range numbers {
		var bytes [8]byte
		binary.BigEndian.PutUint64(bytes[:], uint64(n)) //nolint:gosec // only compared
		_, _ = h.Write(bytes[:])                        // a hash takes everything
	}
	return h.Sum64()
}
