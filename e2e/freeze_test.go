package e2e

import (
	"net/http"
	"runtime"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestFreeze has daemons pull a tag that moves and is deleted at its registry: while it is frozen they get the old image, once it is thawed the
// new one, and after a rollback the old one again. Nobody turns to the upstream.
func TestFreeze(t *testing.T) {
	t.Parallel()
	need(t)
	daemons := []string{"dockerd", "ctr", "containerd2"}
	for _, name := range daemons {
		clientNamed(t, name)
	}
	old, moved := multiArchOf("library/moving"), newImage("library/moving", "latest")
	moved.addIndex(moved.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerGzip, threeLayers("moved")))
	s, data := newSite(t, old), scratch(t)
	h := s.startHubcap(t, data, "HUBCAP_TAG_TTL=1ms")
	mustPull(t, clientNamed(t, "containerd2").start(t, s, mirror), old) // of all of them it asks for most
	sessions := map[string]session{}
	for _, name := range daemons {
		sessions[name] = clientNamed(t, name).start(t, s, mirror)
	}
	all := func(want *image, when string) {
		t.Helper()
		for _, name := range daemons {
			if err := sessions[name].pull(want); err != nil {
				t.Errorf("%s, %s: %v", name, when, err)
			}
		}
	}
	tag := object{"ref": "docker.io/library/moving:latest"}

	h.api(t, data, http.MethodPost, "image/freeze", tag, nil)
	s.publish(moved)
	all(old, "while the tag is frozen")
	h.api(t, data, http.MethodPost, "image/thaw", tag, nil)
	all(moved, "once it is thawed")
	h.api(t, data, http.MethodPost, "image/rollback", tag, nil)
	all(old, "after a rollback")
	s.hub.DeleteTag("library/moving", "latest")
	h.terminate(t)
	s.startHubcap(t, data, "HUBCAP_TAG_TTL=1ms")
	all(old, "deleted at its registry, after a restart")
	s.assertNoBypass(t)
}
