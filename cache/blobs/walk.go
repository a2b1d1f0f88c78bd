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

// ErrUnseen says that Walk could not look at everything: there may be blobs
// that it has not visited.
var ErrUnseen = errors.New("it cannot be looked at")

// passed is what a walk had to pass over: of each kind the first failure.
type passed struct {
	unseen error // to look at something
	stays  error // to remove something
}

func (p *passed) notSeen(err error) {
	if err != nil && p.unseen == nil && !errors.Is(err, fs.ErrNotExist) {
		p.unseen = fmt.Errorf("%w: %w", ErrUnseen, err)
	}
}

func (p *passed) notRemoved(err error) { p.stays = cmp.Or(p.stays, err) }

func (p *passed) err() error { return errors.Join(p.unseen, p.stays) }

// Walk calls visit with each blob, and removes what is no blob. The blobs
// that DirOf puts together come one after another. An error of visit ends it.
// What cannot be looked at (ErrUnseen) or removed is passed over, and the first
// failure of each kind is returned at the end.
func (s *Store) Walk(visit func(d digest.Digest, class Class, size int64, modified time.Time) error) error {
	var over passed
	var ended error
	for _, class := range classes {
		s.subdirs(&over, class.dir(), func(name string) bool { return slices.Contains(algorithms[:], digest.Algorithm(name)) })
	}
	for _, algorithm := range algorithms {
		prefixes := slices.Concat(
			s.subdirs(&over, path.Join(ClassOpen.dir(), algorithm.String()), anything),
			s.subdirs(&over, path.Join(ClassClosed.dir(), algorithm.String()), anything),
		)
		slices.Sort(prefixes)
		for _, prefix := range slices.Compact(prefixes) {
			for _, class := range classes {
				s.walkDir(&over, algorithm, class, prefix, func(d digest.Digest, size int64, modified time.Time) bool {
					ended = visit(d, class, size, modified)
					return ended == nil
				})
				if ended != nil {
					return errors.Join(ended, over.err())
				}
			}
		}
	}
	return over.err()
}

func anything(string) bool { return true }

// subdirs are the directories in dir that belong there. The rest goes.
func (s *Store) subdirs(over *passed, dir string, belongs func(name string) bool) (names []string) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	over.notSeen(err)
	for _, entry := range entries {
		if entry.IsDir() && belongs(entry.Name()) {
			names = append(names, entry.Name())
		} else {
			over.notRemoved(s.root.RemoveAll(path.Join(dir, entry.Name())))
		}
	}
	return names
}

// batch is how many names of a directory are read at a time.
const batch = 1024

// walkDir is Walk for one of the directories that files are spread over, until
// visit returns false. A file costs one call of the system.
func (s *Store) walkDir(over *passed, algorithm digest.Algorithm, class Class, prefix string, visit func(digest.Digest, int64, time.Time) bool) {
	name := path.Join(class.dir(), algorithm.String(), prefix)
	dir, err := s.root.Open(name)
	if err != nil {
		over.notSeen(err)
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
				over.notSeen(err)
			case !regular || d.Validate() != nil || hash[:2] != prefix || class == ClassClosed && s.there(blobPath(d, ClassOpen)):
				over.notRemoved(s.root.RemoveAll(path.Join(name, hash)))
			case !visit(d, size, modified):
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			over.notSeen(err)
			return
		}
	}
}

func (s *Store) there(name string) bool {
	_, err := s.root.Lstat(name)
	return err == nil
}
