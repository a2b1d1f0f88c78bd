package e2e

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// The tests of this file interrupt a pull of one layer, always when a known part of it has crossed and never after some time.
const (
	layerSize = 48 << 20
	halfWay   = layerSize / 2
)

// TestKillDuringPull kills the box while a client reads a layer that is half there. The next one, on the same directory, has the right bytes.
func TestKillDuringPull(t *testing.T) {
	need(t)
	c := clientNamed(t, "skopeo")
	big := bigImage("library/big", layerSize)
	layer := big.pulled()[1]
	s := newSite(t, big)
	dataDir := scratch(t)

	ofLayer := fakehub.All(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(layer.Digest))
	s.hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(halfWay)}, ofLayer))
	killed := s.startHubcap(t, dataDir)
	readHalf(t, killed.get(t, blobPath(big, layer.Digest)))
	killed.kill()
	crossed := s.hub.BytesSent(layer.Digest)

	s.hub.Script(nil)
	h := s.startHubcap(t, dataDir)
	h.assertNoOrphans(t, dataDir)
	mustPull(t, c.start(t, s, mirror), big)
	after := s.hub.BytesSent(layer.Digest)
	if got := digestOf(t, h.get(t, blobPath(big, layer.Digest)), nil); got != layer.Digest {
		t.Errorf("the layer is %s, want %s", got, layer.Digest)
	}
	if again := s.hub.BytesSent(layer.Digest) - after; again != 0 {
		t.Errorf("%d bytes of the layer crossed for the second client after the restart: it is not held", again)
	}
	s.assertNoBypass(t)
	t.Logf("of %d bytes %d had crossed, and %d more did after the restart", layer.Size, crossed, after-crossed)
}

// TestUpstreamDownAtStart starts the box when its upstream is down: it serves what it holds, and is honest about the rest.
func TestUpstreamDownAtStart(t *testing.T) {
	need(t)
	c := clientNamed(t, "crane")
	held, other := multiArchImage(), singleImage("library/schema2")
	s := newSite(t, held, other)
	dataDir := scratch(t)
	// The tag is never fresh, so that each pull has to ask.
	const shortTTL = "HUBCAP_TAG_TTL=1ms"
	first := s.startHubcap(t, dataDir, shortTTL)
	mustPull(t, c.start(t, s, mirror), held)
	first.terminate(t)

	s.hub.Down()
	h := s.startHubcap(t, dataDir, shortTTL)
	answer := h.get(t, manifestPath(held))
	if status := answer.Header.Get("Cache-Status"); answer.StatusCode != http.StatusOK || !strings.Contains(status, "stale") {
		t.Errorf("a held tag is answered %s with Cache-Status %q, want 200 and stale", answer.Status, status)
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.programs...)
			mustPull(t, c.start(t, s, mirror), held)
		})
	}
	// Not found would be a lie, and one that clients remember.
	if status := h.status(manifestPath(other)); status < 500 {
		t.Errorf("a tag that is not held is answered %d, want 5xx", status)
	}

	s.hub.Up()
	waitUntil(t, "the box finds its upstream again", func() bool { return h.status(manifestPath(other)) == http.StatusOK })
	mustPull(t, c.start(t, s, mirror), other)
	s.assertNoBypass(t)
}

// TestTerminateDuringPull asks the box to end while two clients pull: they get the rest, and then it ends.
func TestTerminateDuringPull(t *testing.T) {
	need(t)
	c := clientNamed(t, "podman") // it has asked for all that it needs before the layer begins
	big := bigImage("library/big", layerSize)
	layer := big.pulled()[1]
	s := newSite(t, big)
	gate := newGate(big.blobs[layer.Digest], halfWay)
	t.Cleanup(gate.open)
	s.hub.AddBlobFunc(big.repository, layer.Digest, layer.Size, gate.reader)

	h := s.startHubcap(t, scratch(t), "HUBCAP_DRAIN_TIMEOUT=5m", "HUBCAP_STALL_TIMEOUT=5m")
	realClient := make(chan error, 1)
	session := c.start(t, s, mirror)
	go func() { realClient <- session.pull(big) }()
	waitUntil(t, "the real client pulls the layer", func() bool { return s.hub.BytesSent(layer.Digest) > 0 })
	answer := h.get(t, blobPath(big, layer.Digest))
	beginning := readHalf(t, answer)

	h.signal(syscall.SIGTERM)
	waitUntil(t, "the box is draining", func() bool { return h.status("/readyz") != http.StatusOK })
	gate.open()
	if got := digestOf(t, answer, beginning); got != layer.Digest {
		t.Errorf("the layer is %s, want %s", got, layer.Digest)
	}
	if err := <-realClient; err != nil {
		t.Error(err)
	}
	if code := h.exitCode(t); code != 0 {
		t.Errorf("hubcap ended with %d, want 0", code)
	}
	s.assertNoBypass(t)
	s.assertCrossedOnce(t, big)
}

// assertNoOrphans fails if more lies on disk than the box knows of: what it had begun when it was killed must be gone or counted.
func (h *hubcap) assertNoOrphans(t *testing.T, dataDir string) {
	t.Helper()
	const slack = 1 << 20 // directories, the lock
	var onDisk, counted int64
	defer func() {
		if t.Failed() {
			t.Logf("%d bytes lie on disk, %d are counted", onDisk, counted)
		}
	}()
	waitUntil(t, "all that lies on disk is counted", func() bool {
		onDisk, counted = diskUsage(t, dataDir), h.metric(t, "hubcap_cache_bytes")
		return onDisk <= counted+slack
	})
}

// diskUsage counts blocks, as Badger's files have holes.
func diskUsage(t *testing.T, dir string) int64 {
	t.Helper()
	var used int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			used += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone while we looked
		t.Fatal(err)
	}
	return used
}

// terminate ends the box in the ordinary way.
func (h *hubcap) terminate(t *testing.T) {
	t.Helper()
	h.signal(syscall.SIGTERM)
	if code := h.exitCode(t); code != 0 {
		t.Errorf("hubcap ended with %d, want 0", code)
	}
}

func blobPath(i *image, d digest.Digest) string {
	return "/v2/" + i.repository + "/blobs/" + d.String()
}

func manifestPath(i *image) string { return "/v2/" + i.repository + "/manifests/" + i.tag }

// readHalf reads what can have crossed: less than up to half-way, so that it never waits for more than there will be.
func readHalf(t *testing.T, answer *http.Response) []byte {
	t.Helper()
	beginning := make([]byte, halfWay-1<<20)
	if _, err := io.ReadFull(answer.Body, beginning); err != nil {
		t.Fatalf("the layer's beginning (%s): %v", answer.Status, err)
	}
	return beginning
}
