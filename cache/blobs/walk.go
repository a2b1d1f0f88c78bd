package blobs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrUnseen means that Walk could not read everything: there may be blobs that it
// has not visited.
var ErrUnseen = errors.New("it cannot be read")

// skipped holds what a walk had to skip: the first error of each kind.
type skipped struct {
	unseen error // of reading
	stays  error // of removing
}

func (p *skipped) notSeen(err error) {
	if err != nil && p.unseen == nil && !errors.Is(err, fs.ErrNotExist) {
		p.unseen = fmt.Errorf("%w: %w", ErrUnseen, err)
	}
}

func (p *skipped) notRemoved(err error) { p.stays = cmp.Or(p.stays, err) }

func (p *skipped) err() error { return errors.Join(p.unseen, p.stays) }

// Walk calls visit with each blob, and removes what is not a blob. Blobs with the
// same DirOf are visited one after another. An error of visit ends the walk. What
// cannot be read (ErrUnseen) or removed is skipped, and the first error of each
// kind is returned at the end.
func (s *Store) Walk(visit func(d digest.Digest, class Class, size int64, modified time.Time) error) error {
	var skip skipped
	var ended error
	for _, class := range classes {
		s.subdirs(&skip, class.dir(), func(name string) bool { return slices.Contains(algorithms[:], digest.Algorithm(name)) })
	}
	for _, algorithm := range algorithms {
		prefixes := slices.Concat(
			s.subdirs(&skip, path.Join(Public.dir(), algorithm.String()), anything),
			s.subdirs(&skip, path.Join(Restricted.dir(), algorithm.String()), anything),
		)
		slices.Sort(prefixes)
		for _, prefix := range slices.Compact(prefixes) {
			for _, class := range classes {
				s.walkDir(&skip, algorithm, class, prefix, func(d digest.Digest, size int64, modified time.Time) bool {
					ended = visit(d, class, size, modified)
					return ended == nil
				})
				if ended != nil {
					return errors.Join(ended, skip.err())
				}
			}
		}
	}
	return skip.err()
}

func anything(string) bool { return true }

// subdirs returns the directories in dir that belong there, and removes the rest.
func (s *Store) subdirs(skip *skipped, dir string, belongs func(name string) bool) (names []string) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	skip.notSeen(err)
	for _, entry := range entries {
		if entry.IsDir() && belongs(entry.Name()) {
			names = append(names, entry.Name())
		} else {
			skip.notRemoved(s.root.RemoveAll(path.Join(dir, entry.Name())))
		}
	}
	return names
}

// batch is how many names of a directory are read at a time.
const batch = 1024

// walkDir is Walk for one directory of files, until visit returns false. It makes
// one system call for each file.
func (s *Store) walkDir(skip *skipped, algorithm digest.Algorithm, class Class, prefix string, visit func(digest.Digest, int64, time.Time) bool) {
	name := path.Join(class.dir(), algorithm.String(), prefix)
	dir, err := s.root.Open(name)
	if err != nil {
		skip.notSeen(err)
		return
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(batch)
		for _, hash := range names {
			d := digest.NewDigestFromEncoded(algorithm, hash)
			size, modified, regular, err := statAt(dir, hash)
			switch {
			case err != nil:
				skip.notSeen(err)
			case !regular || d.Validate() != nil || hash[:2] != prefix || class == Restricted && s.there(blobPath(d, Public)):
				skip.notRemoved(s.root.RemoveAll(path.Join(name, hash)))
			case !visit(d, size, modified):
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			skip.notSeen(err)
			return
		}
	}
}

func (s *Store) there(name string) bool {
	_, err := s.root.Lstat(name)
	return err == nil
}
