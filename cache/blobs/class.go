package blobs

import (
	"errors"
	"path"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/failpoint"
)

// Class is the visibility of a file's content.
type Class uint8

// The classes.
const (
	Public     Class = iota // what an anonymous client could have pulled
	Restricted              // what its registry gives only to some clients
)

// classes are all of them; if a digest has two files, the one of the first class
// counts.
var classes = [...]Class{Public, Restricted}

// dir returns the directory of the files of a class. The names are those of the
// data directory's layout.
func (c Class) dir() string {
	if c == Public {
		return "blobs/open"
	}
	return "blobs/closed"
}

// algorithms are those of digests that may name a file.
var algorithms = [...]digest.Algorithm{digest.SHA256, digest.SHA512}

// Reveal makes the restricted file of d a public one, and returns its Stat before
// and after. A power cut leaves it in one class or the other.
func (s *Store) Reveal(d digest.Digest) (before, after Stat, err error) {
	f, before, err := s.Open(d, Restricted)
	if err != nil {
		return Stat{}, Stat{}, err
	}
	defer f.Close()
	from, to := blobPath(d, Restricted), blobPath(d, Public)
	if err := s.moveInto(path.Dir(to), func() error { return s.root.Rename(from, to) }); err != nil {
		return Stat{}, Stat{}, err
	}
	after, err = s.Stat(f)
	return before, after, errors.Join(err, s.sync(path.Dir(from)))
}

// moveInto calls move, which gives a file its name in dir. The name is on disk
// when moveInto returns.
func (s *Store) moveInto(dir string, move func() error) error {
	made, err := s.ensure(dir)
	if err != nil {
		return err
	}
	failpoint.At(failpoint.CommitMade)
	if err := move(); err != nil {
		return err
	}
	failpoint.At(failpoint.CommitRenamed)
	if err := s.sync(dir); err != nil {
		return err
	}
	if made {
		return s.sync(path.Dir(dir))
	}
	return nil
}
