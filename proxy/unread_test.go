//go:build linux

package proxy_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// TestUnreadableWhileTheRegistryIsDown asks for an image of which a file cannot
// be opened, in turn the manifest's, the config's and a layer's, while its
// registry is down: clients are told so, nothing is removed, and once the file
// can be read the image is served.
func TestUnreadableWhileTheRegistryIsDown(t *testing.T) {
	t.Parallel()
	for name, which := range map[string]func(fakehub.Image) digest.Digest{
		"manifest": func(i fakehub.Image) digest.Digest { return i.Manifest.Digest },
		"config":   func(i fakehub.Image) digest.Digest { return i.Config.Digest },
		"layer":    func(i fakehub.Image) digest.Digest { return i.Layers[0].Digest },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			hub := fakehub.Start(t, fakehub.Options{})
			layer := fakehub.RandomBlob(1, 300*kib)
			img := hub.Image("library/demo", "latest", layer)
			pull := func(r *rig) (worst int) {
				for _, path := range []string{"/v2/demo/manifests/latest", blobPath("demo", img.Config.Digest), blobPath("demo", img.Layers[0].Digest)} {
					worst = max(worst, r.get(path).StatusCode)
				}
				return worst
			}
			r := newRig(t, rigOptions{dir: dir, hub: hub})
			if status := pull(r); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			r.settle()
			d := which(img)
			file := filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2], d.Encoded())
			eventually(t, "the file is there", func() bool { _, err := os.Stat(file); return err == nil })
			r.stop() // and the manifest is no longer in memory

			r = newRig(t, rigOptions{dir: dir, hub: hub, tryAgain: time.Hour})
			hub.Down()
			r.clock.Advance(time.Hour) // past the tag's TTL
			mend := testkit.Unopenable(t, file)
			for range 3 {
				if status := pull(r); status < 502 {
					t.Errorf("status %d, want 502 to 504", status)
				}
			}
			if _, err := os.Stat(file); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the box says so", func() bool { return string(r.get("/readyz").body) == "degraded: reads\n" })
			mend()
			if status := pull(r); status != http.StatusOK {
				t.Errorf("afterwards status %d", status)
			}
		})
	}
}
