package crash

import (
	"fmt"
	"hubcap/e2e/testkit"
	"os"
	"path/filepath"
	"testing"
)

// indexDamage is one thing that can happen to one file of the index.
type indexDamage struct {
	name string
	do   func(t *testing.T)
}

// TestDamagedIndex flips a bit at the beginning, in the middle and at the end of each file of the index, cuts each short, empties it and
// removes it, and all. Whatever that does to Badger, hubcap comes up at the first start, and what it held is held.
func TestDamagedIndex(t *testing.T) {
	random := begin(t)
	s := newSite(t, random, "HUBCAP_TAG_TTL=1ms")
	dir, good := t.TempDir(), filepath.Join(t.TempDir(), "index")
	index := filepath.Join(dir, "index")
	tags := s.fillIndex(t, dir)
	if err := testkit.CopyDir(good, index); err != nil {
		t.Fatal(err)
	}
	all := damages(t, index)
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, damage := range all[:min(len(all), rounds(10, len(all)))] {
		t.Run(damage.name, func(t *testing.T) {
			restore(t, good, index)
			damage.do(t)
			s.survive(t, dir, tags)
		})
	}
	t.Logf("%d ways to damage an index, of which %d were tried", len(all), min(len(all), rounds(10, len(all))))
}

// fillIndex gives the index several files: what one run has written becomes a table when it ends.
func (s *site) fillIndex(t *testing.T, dir string) (tags map[string]*blob) {
	t.Helper()
	tags = make(map[string]*blob)
	for run := range 3 {
		s.start(t, dir)
		for i := range 10 {
			tag := fmt.Sprintf("run-%d-%d", run, i)
			tags[tag] = s.tagged(tag)
		}
		s.hold(t, s.publishMany(10, 1, 100_000)...)
		s.mustPullTags(t, tags)
		s.box.stop(t)
	}
	return tags
}

func (s *site) mustPullTags(t *testing.T, tags map[string]*blob) {
	t.Helper()
	for tag, manifest := range tags {
		got := s.box.getPath(t.Context(), "/v2/"+repository+"/manifests/"+tag, manifest, 0)
		if got.err != nil || got.wrong {
			t.Errorf("tag %s: wrong bytes %v, %v", tag, got.wrong, got.err)
		}
	}
}

// damages are all that can happen to the index in dir.
func damages(t *testing.T, dir string) (all []indexDamage) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if last := info.Size() - 1; last >= 0 {
			for i, at := range []string{"beginning", "middle", "end"} {
				off := last * int64(i) / 2
				all = append(all, indexDamage{file.Name() + " flipped at its " + at, func(t *testing.T) { flip(t, path, off) }})
			}
			for _, size := range []int64{0, min(10, last), last / 2, last} {
				all = append(all, indexDamage{fmt.Sprintf("%s cut to %d bytes", file.Name(), size), func(t *testing.T) { cut(t, path, size) }})
			}
		}
		all = append(all, indexDamage{file.Name() + " removed", func(t *testing.T) { remove(t, path) }})
	}
	return append(all, indexDamage{"all removed", func(t *testing.T) { remove(t, dir) }})
}

func cut(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// restore puts the good index in the place of what the last round has left.
func restore(t *testing.T, good, index string) {
	t.Helper()
	left, err := filepath.Glob(index + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		remove(t, path)
	}
	if err := testkit.CopyDir(index, good); err != nil {
		t.Fatal(err)
	}
}

// survive starts on a damaged index, twice, as the damage may show in what the first run leaves: that one ends in the ordinary way
// and closes the index, the second one does not.
func (s *site) survive(t *testing.T, dir string, tags map[string]*blob) {
	t.Helper()
	for _, end := range []func(){func() { s.box.stop(t) }, func() { s.box.kill() }} {
		s.start(t, dir)
		s.hub.Reset()
		s.mustPull(t, s.blobs...)
		for _, b := range s.blobs {
			if s.crossed(b) > 0 {
				t.Errorf("%s lies there, and was fetched", b.digest)
			}
		}
		s.mustPullTags(t, tags)
		s.assertAccount(t, dir)
		s.box.assertAlive(t)
		end()
	}
}
