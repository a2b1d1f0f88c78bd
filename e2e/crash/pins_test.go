package crash

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// pin starts hubcap and has it pin an image, for which the file that asks for it is then removed: from then on hubcap knows of the pin
// from its index alone. It returns the image's layers.
func (s *site) pin(t *testing.T, dir string) (layers []*blob) {
	t.Helper()
	var content [][]byte
	for range 3 {
		content = append(content, fakehub.RandomBlob(s.random.Uint64(), 1<<20))
	}
	image := s.hub.Image(repository, "pinned", content...)
	for i, layer := range image.Layers {
		layers = append(layers, &blob{digest: layer.Digest, content: content[i]})
	}
	file := filepath.Join(t.TempDir(), "pins")
	if err := os.WriteFile(file, []byte("docker.io/"+repository+":pinned\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.extra = append(s.extra, "HUBCAP_PINS_FILE="+file)
	s.start(t, dir)
	waitUntil(t, "the pinned image is held", func() bool {
		m := s.box.scrape()
		return m["hubcap_pinned_bytes"] > 0 && m["hubcap_pinned_missing_bytes"] == 0
	})
	remove(t, file)
	return layers
}

// press pulls several times what the cache holds, and pins nothing of it.
func (s *site) press(t *testing.T) {
	t.Helper()
	s.forget(0)
	s.mustPull(t, s.publishMany(24, 6<<20, 8<<20)...)
}

func assertHeld(t *testing.T, dir string, layers []*blob) {
	t.Helper()
	for _, one := range layers {
		if !holds(dir, one) {
			t.Errorf("the pinned %s is not held", one.digest)
		}
	}
}

// TestPinsSurviveKill kills hubcap while it evicts, sometimes loses its index too, and pulls many times what the cache holds: the pinned
// image is held all the time, and none of it is fetched again.
func TestPinsSurviveKill(t *testing.T) {
	takesLong(t)
	random := begin(t)
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MAX_BLOB=32MiB")
	dir := t.TempDir()
	pinned := s.pin(t, dir)
	s.hub.Reset()
	n := rounds(4, 100)
	for round := range n {
		tr := s.traffic(3, s.publishMany(12, 8<<20, 16<<20))
		time.Sleep(upTo(random, 500*time.Millisecond))
		tr.excuse()
		s.box.kill()
		tr.end(t)
		if round%2 == 1 {
			remove(t, filepath.Join(dir, "index"))
		}
		s.start(t, dir)
		s.press(t)
		assertHeld(t, dir, pinned)
		s.mustPull(t, pinned...)
		s.assertAccount(t, dir)
		for _, one := range pinned {
			if s.crossed(one) > 0 {
				t.Errorf("the pinned %s was fetched again", one.digest)
			}
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		progress(t, round)
	}
}

// TestPinsSurvivePowerCut cuts the power right after an image was pinned.
func TestPinsSurvivePowerCut(t *testing.T) {
	random := begin(t, "mkfs.ext4", "mount")
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MAX_BLOB=32MiB")
	d := newDisk(t, "ext4", 192<<20, "")
	pinned := s.pin(t, d.data())
	d.cutPower(t)
	s.box.kill()
	d.remount(t)
	if box, _ := s.supervise(t, d.data(), 3); box == nil {
		t.Fatal("hubcap does not start after a power cut")
	}
	s.hub.Reset()
	s.press(t)
	assertHeld(t, d.data(), pinned)
	s.mustPull(t, pinned...)
	s.assertAccount(t, d.data())
}
