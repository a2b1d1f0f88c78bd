package blobs

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Walk calls visit with each blob, and removes what is no blob. The blobs
// that DirOf puts together come one after another. An error of visit ends it;
// what cannot be looked at or removed is passed over, and the first such
// failure told of at the end.
func (s *Store) Walk(visit func(d digest.Digest, class Class, size int64, modified time.Time) error) error {
	var ended, passed error
	for _, class := range classes {
		_, err := s.subdirs(class.dir(), func(name string) bool { return slices.Contains(algorithms[:], digest.Algorithm(name)) })
		passed = cmp.Or(passed, err)
	}
	for _, algorithm := range algorithms {
		open, err := s.subdirs(path.Join(ClassOpen.dir(), algorithm.String()), anything)
		closed, err2 := s.subdirs(path.Join(ClassClosed.dir(), algorithm.String()), anything)
		passed = cmp.Or(passed, err, err2)
		prefixes := slices.Concat(open, closed)
		slices.Sort(prefixes)
		for _, prefix := range slices.Compact(prefixes) {
			for _, class := range classes {
				err := s.walkDir(algorithm, class, prefix, func(d digest.Digest, size int64, modified time.Time) bool {
					ended = visit(d, class, size, modified)
					return ended == nil
				})
				if ended != nil {
					return errors.Join(ended, passed)
				}
				if !errors.Is(err, fs.ErrNotExist) {
					passed = cmp.Or(passed, err)
				}
			}
		}
	}
	return passed
}

func anything(string) bool { return true }

// subdirs are the directories in dir that belong there. The rest goes.
func (s *Store) subdirs(dir string, belongs func(name string) bool) (names []string, err error) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	for _, entry := range entries {
		if entry.IsDir() && belongs(entry.Name()) {
			names = append(names, entry.Name())
		} else {
			err = cmp.Or(err, s.root.RemoveAll(path.Join(dir, entry.Name())))
		}
	}
	return names, err
}

// batch is how many names of a directory are read at a time.
const batch = 1024

// walkDir is Walk for one of the directories that files are spread over, until
// visit returns false. A file costs one call of the system.
func (s *Store) walkDir(algorithm digest.Algorithm, class Class, prefix string, visit func(digest.Digest, int64, time.Time) bool) (passed error) {
	name := path.Join(class.dir(), algorithm.String(), prefix)
	dir, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(batch)
		for _, hash := range names {
			d := digest.NewDigestFromEncoded(algorithm, hash)
			size, modified, regular, err := statAt(dir, hash)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				passed = cmp.Or(passed, err)
			case !regular || d.Validate() != nil || hash[:2] != prefix || class == ClassClosed && s.there(blobPath(d, ClassOpen)):
				passed = cmp.Or(passed, s.root.RemoveAll(path.Join(name, hash)))
			case !visit(d, size, modified):
				return passed
			}
		}
		if err == io.EOF {
			return passed
		}
		if err != nil {
			return errors.Join(passed, err)
		}
	}
}

func (s *Store) there(name string) bool {
	_, err := s.root.Lstat(name)
	return err == nil
}
