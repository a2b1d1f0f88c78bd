package blobs

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
)

// Walk calls visit with each blob, and removes what is no blob. An error of
// visit ends it; what cannot be looked at or removed is passed over, and the first such
// failure told of at the end.
func (s *Store) Walk(visit func(d digest.Digest, size int64, modified time.Time) error) error {
	var ended error
	passed := s.eachIn(blobDir, func(algorithm string) error {
		if a := digest.Algorithm(algorithm); a != digest.SHA256 && a != digest.SHA512 {
			return s.root.RemoveAll(path.Join(blobDir, algorithm))
		}
		return s.eachIn(path.Join(blobDir, algorithm), func(prefix string) error {
			if ended != nil {
				return nil
			}
			return s.walkDir(digest.Algorithm(algorithm), prefix, func(d digest.Digest, size int64, modified time.Time) bool {
				ended = visit(d, size, modified)
				return ended == nil
			})
		})
	})
	return errors.Join(ended, passed)
}

// eachIn calls do with the names in a directory. What is no directory goes.
// The first error is kept: a failing disk has many.
func (s *Store) eachIn(dir string, do func(name string) error) error {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	for _, entry := range entries {
		if entry.IsDir() {
			err = cmp.Or(err, do(entry.Name()))
		} else {
			err = cmp.Or(err, s.root.Remove(path.Join(dir, entry.Name())))
		}
	}
	return err
}

// batch is how many names of a directory are read at a time.
const batch = 1024

// walkDir is Walk for one of the directories that files are spread over, until
// visit returns false. A file costs one call of the system.
func (s *Store) walkDir(algorithm digest.Algorithm, prefix string, visit func(digest.Digest, int64, time.Time) bool) (passed error) {
	name := path.Join(blobDir, algorithm.String(), prefix)
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
			case !regular || d.Validate() != nil || hash[:2] != prefix:
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
