package blobs

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
)

// Walk calls visit with each blob, and removes what is no blob. An error of
// visit ends it.
func (s *Store) Walk(visit func(d digest.Digest, size int64, modified time.Time) error) error {
	return s.eachIn(blobDir, func(algorithm string) error {
		if a := digest.Algorithm(algorithm); a != digest.SHA256 && a != digest.SHA512 {
			return s.root.RemoveAll(path.Join(blobDir, algorithm))
		}
		return s.eachIn(path.Join(blobDir, algorithm), func(prefix string) error {
			return s.walkDir(digest.Algorithm(algorithm), prefix, visit)
		})
	})
}

// eachIn calls do with the names in a directory. What is no directory goes.
func (s *Store) eachIn(dir string, do func(name string) error) error {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			err = do(entry.Name())
		} else {
			err = s.root.Remove(path.Join(dir, entry.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// batch is how many names of a directory are read at a time.
const batch = 1024

// walkDir is Walk for one of the directories that files are spread over. A
// file costs one call of the system.
func (s *Store) walkDir(algorithm digest.Algorithm, prefix string, visit func(digest.Digest, int64, time.Time) error) error {
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
				continue
			case err != nil:
				return err
			case !regular || d.Validate() != nil || hash[:2] != prefix:
				err = s.root.RemoveAll(path.Join(name, hash))
			default:
				err = visit(d, size, modified)
			}
			if err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
