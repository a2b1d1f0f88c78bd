package crash

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBitFlips flips one bit in each of many blobs while hubcap is not there. Nobody is given a flipped one whole, and the next who
// asks has the right one.
func TestBitFlips(t *testing.T) {
	random := begin(t)
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=4GiB")
	blobs := s.publishMany(rounds(12, 1000), 1, 512<<10)
	dir := t.TempDir()
	s.start(t, dir)
	s.hold(t, blobs...)
	s.box.stop(t)
	for i, b := range blobs {
		last := int64(len(b.content) - 1)
		flip(t, blobFile(dir, b), []int64{0, last / 2, last}[i%3])
	}

	s.start(t, dir)
	cut := 0
	for i, b := range blobs {
		// Half of the clients ask for the end only, and get it from a file that nobody has looked at yet.
		if !s.tryPull(t, b, i%2*len(b.content)/2) {
			cut++
		}
	}
	s.box.assertAlive(t)
	if cut == 0 {
		t.Error("no answer was cut, so no flipped bit was met")
	}
	s.mustPull(t, blobs...)
	s.waitAccount(t, dir)
	s.hub.Reset()
	s.mustPull(t, blobs...)
	for _, b := range blobs {
		if s.crossed(b) > 0 {
			t.Errorf("%s was mended, and is fetched again", b.digest)
		}
	}
	t.Logf("%d blobs flipped, %d answers cut", len(blobs), cut)
}

// flip flips a bit of the byte at off.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := make([]byte, 1)
	_, err = f.ReadAt(one, off)
	one[0] ^= 1
	if err == nil {
		_, err = f.WriteAt(one, off)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hand is what an administrator may do to a file in good faith. elsewhere is a directory for what it needs.
type hand struct {
	name    string
	do      func(path, elsewhere string) error
	resizes bool
}

var hands = []hand{
	{"emptied", func(path, _ string) error { return os.Truncate(path, 0) }, true},
	{"halved", halve, true},
	{"made longer", func(path, _ string) error { return appendTo(path, "more") }, true},
	{"deleted", func(path, _ string) error { return os.Remove(path) }, false},
	{"a directory", func(path, _ string) error { return instead(path, os.MkdirAll(path+".new/below", 0o700)) }, false},
	{"a link", linkInstead, false},
	{"a link to itself", func(path, _ string) error { return instead(path, os.Symlink(path, path+".new")) }, false},
	{"a pipe", func(path, _ string) error { return instead(path, unix.Mkfifo(path+".new", 0o600)) }, false},
	{"unreadable", func(path, _ string) error { return os.Chmod(path, 0) }, false}, // though not for root
	{"only touched", func(path, _ string) error { return os.Chmod(path, 0o644) }, false},
}

func halve(path, _ string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// instead puts path.new, which was made or not, in the place of path.
func instead(path string, made error) error {
	if made != nil {
		return made
	}
	return errors.Join(os.Remove(path), os.Rename(path+".new", path))
}

// linkInstead moves the file away and leaves a link to it: the right bytes, for whoever follows it.
func linkInstead(path, elsewhere string) error {
	moved := filepath.Join(elsewhere, filepath.Base(path))
	return errors.Join(os.Rename(path, moved), os.Symlink(moved, path))
}

// TestHandMadeDamage does to blobs whatever hands can do to files, under a hubcap that runs and under one that does not: each pull
// has the right bytes, and what is left in the directory is in order.
func TestHandMadeDamage(t *testing.T) {
	for _, h := range sampled(begin(t), hands) {
		for _, running := range []bool{true, false} {
			when := map[bool]string{true: "while it runs", false: "while it does not"}[running]
			t.Run(h.name+"/"+when, func(t *testing.T) {
				s := newSite(t, begin(t))
				for _, b := range s.handMade(t, h, running) {
					if h.name == "a link" && s.crossed(b) == 0 {
						t.Errorf("%s was read through a symbolic link", b.digest)
					}
				}
			})
		}
	}
}

// handMade is one case. It returns the blobs.
func (s *site) handMade(t *testing.T, h hand, running bool) []*blob {
	t.Helper()
	dir, elsewhere := t.TempDir(), t.TempDir()
	blobs := s.publishMany(rounds(3, 50), 1, 256<<10)
	s.start(t, dir)
	s.hold(t, blobs...)
	if !running {
		s.box.stop(t)
	}
	for _, b := range blobs {
		if err := h.do(blobFile(dir, b), elsewhere); err != nil {
			t.Fatal(err)
		}
	}
	if !running {
		s.start(t, dir)
	}
	s.hub.Reset()
	for _, b := range blobs {
		got := s.box.get(t.Context(), b, 0)
		switch {
		case got.wrong:
			t.Errorf("%s: wrong bytes in a complete answer", b.digest)
		case got.err != nil:
			t.Errorf("%s of %d bytes does not come: %v", b.digest, len(b.content), got.err)
		}
	}
	s.mustPull(t, blobs...)
	s.waitAccount(t, dir)
	assertUntouched(t, elsewhere)
	return blobs
}

// assertUntouched fails if hubcap wrote through a link.
func assertUntouched(t *testing.T, elsewhere string) {
	t.Helper()
	files, err := os.ReadDir(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(elsewhere, file.Name()))
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(content)) != file.Name() {
			t.Errorf("%s, which a link led to, is not what it was: %v", file.Name(), err)
		}
	}
}
