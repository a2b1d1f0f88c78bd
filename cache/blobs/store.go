// Package blobs keeps content in files named by digest. It knows names,
// commit and removal; it knows neither what a file holds nor what it is for.
//
// Layout below the data directory:
//
//	layout                          the version of this layout
//	lock                            locked by the process that uses the directory
//	blobs/open/sha256/ab/abcd…      whole, verified files of public content
//	blobs/closed/sha256/ab/abcd…    the same of restricted content
//	partial/sha256-abcd…            partial files: of running fills, and of fills that may be resumed
//	partial/sha256-abcd….note       what a fill has saved to be resumed
//	ballast                         allocated space that is freed when the file system is full
//
// A digest has one file, of one class. Every file name is made of a parsed
// digest and nothing else, and symbolic links are not followed.
//
// Files: store.go, check.go and filesystem.go (look at a directory without opening it), class.go,
// writer.go (one download; Commit is the commit point), partial.go (partial files
// that are resumed later), walk.go, space.go, trial.go (finds quotas by writing),
// system_*.go (what differs between systems).
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

// version is the layout that this package reads and writes.
const version = "2\n"

const partialDir = "partial"

// Store is the directory. Its methods are safe for concurrent use, except that
// the caller excludes from each other those that change one digest.
type Store struct {
	root    *os.Root
	dir     *os.File // root's directory, for openBeneath
	lock    *os.File
	refused atomic.Pointer[time.Time] // when a file was last refused because the file system is read-only
	beat    atomic.Int64              // for Sound
	trial   trial
}

// ErrInUse says that another process has the data directory open.
var ErrInUse = errors.New("another hubcap is using it; stop that one, or set another HUBCAP_DATA_DIR")

// Open opens the data directory dir, and creates it if it is missing. It fails if
// another process uses it or if its layout is unknown; in neither case does it
// change a file.
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
	if errors.Is(err, syscall.EROFS) { // its files can be served
		lock, err = s.root.OpenFile("lock", os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return err
	}
	s.lock = lock
	if err := lockFile(lock); err != nil {
		return ErrInUse
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

// layoutOf reports whether a data directory has a layout: the present one. It is
// an error if it has one that this package does not know.
func layoutOf(root *os.Root) (present bool, err error) {
	found, err := root.ReadFile("layout")
	// A power cut leaves an empty one.
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(found) == 0 {
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

// writeLayout writes the version so that a power cut leaves all of it, or none.
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

// writeNew writes to disk, beside a file, what is to replace it.
func (s *Store) writeNew(name string, content []byte) error {
	f, err := s.root.OpenFile(name+newSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Close unlocks and closes the directory.
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

// reading is how a blob is opened: O_NONBLOCK, so that opening a FIFO in its
// place does not block.
const reading = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// Stat describes a file without its content.
type Stat struct {
	Size      int64  // bytes
	Signature uint64 // of size, inode and times: changes with any change of the file
}

// Open returns the file of d for reading, and its Stat. The error is
// fs.ErrNotExist if there is none of that class; anything but a regular file is
// an error.
func (s *Store) Open(d digest.Digest, class Class) (*os.File, Stat, error) {
	name := blobPath(d, class)
	f, err := openBeneath(s.dir, name)
	if err != nil { // os.Root opens each directory on the way, which works on every system
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

// Stat returns the Stat of an open blob now.
func (s *Store) Stat(f *os.File) (Stat, error) {
	info, err := regular(f)
	if err != nil {
		return Stat{}, err
	}
	return Stat{Size: info.Size(), Signature: signature(info)}, nil
}

var errNotRegular = errors.New("not a regular file")

// regular returns the description of a regular file, and fails for anything
// else.
func regular(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", f.Name(), errNotRegular)
	}
	return info, err
}

// Absent reports whether err, of Open, Find or Resume, means that there is no
// such file: nothing, or something that is not a regular file. After any other
// error there may be a good file that cannot be read now.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) ||
		errors.Is(err, syscall.ENOTDIR) || // a file in place of a directory
		errors.Is(err, syscall.ELOOP) || // a symbolic link
		errors.Is(err, syscall.ENXIO) // a socket
}

// Find returns the class of the file of d and its size in bytes, without
// opening it. Absent reports whether the error means that there is none.
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

// Remove unlinks the file of d, or whatever has its name, and the partial file of
// d. It is no error if there is neither.
func (s *Store) Remove(d digest.Digest) error {
	err := errors.Join(s.root.RemoveAll(blobPath(d, Public)), s.root.RemoveAll(blobPath(d, Restricted)))
	failpoint.At(failpoint.RemoveUnlinked)
	s.trial.freed.Store(true)
	return errors.Join(err, s.RemovePartial(d))
}

// Dir returns the path of elem in the data directory, which the index shares.
func (s *Store) Dir(elem ...string) string {
	return filepath.Join(append([]string{s.root.Name()}, elem...)...)
}

// DirOf returns the common prefix of the digests whose files are in the same
// directory as the file of d, such as "sha256:ab". Walk visits them together.
func DirOf(d digest.Digest) string { return d.String()[:len(d.Algorithm())+len(":ab")] }

// blobPath returns the path of the file of d. Two characters of the hash spread
// the files over 256 directories.
func blobPath(d digest.Digest, class Class) string {
	hash := d.Encoded()
	return path.Join(class.dir(), d.Algorithm().String(), hash[:2], hash)
}

// sum hashes numbers into one.
func sum(numbers []int64) uint64 {
	h := fnv.New64a()
	for _, n := range numbers {
		var bytes [8]byte
		binary.BigEndian.PutUint64(bytes[:], uint64(n)) //nolint:gosec // only compared
		_, _ = h.Write(bytes[:])                        // a hash never fails
	}
	return h.Sum64()
}
