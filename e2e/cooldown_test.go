package e2e

import (
	"runtime"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCooldown has daemons pull a tag that has moved: the old image while the new one waits for its cool-down, and the new one once there is
// none. Nobody turns to the upstream.
func TestCooldown(t *testing.T) {
	need(t)
	daemons := []string{"dockerd", "ctr", "containerd2"}
	for _, name := range daemons {
		clientNamed(t, name)
	}
	old, moved := multiArchOf("library/moving"), newImage("library/moving", "latest")
	moved.addIndex(moved.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerGzip, threeLayers("moved")))
	s, data := newSite(t, old), scratch(t)
	h := s.startHubcap(t, data, "HUBCAP_TAG_TTL=1ms", "HUBCAP_TAG_COOLDOWN=docker.io/**=48h")
	mustPull(t, clientNamed(t, "containerd2").start(t, s, mirror), old) // of all of them it asks for most
	s.publish(moved)
	sessions := map[string]session{}
	for _, name := range daemons {
		sessions[name] = clientNamed(t, name).start(t, s, mirror)
		if err := sessions[name].pull(old); err != nil {
			t.Errorf("%s, while the new image waits: %v", name, err)
		}
	}
	h.terminate(t)
	s.startHubcap(t, data, "HUBCAP_TAG_TTL=1ms")
	for _, name := range daemons {
		if err := sessions[name].pull(moved); err != nil {
			t.Errorf("%s, without a cool-down: %v", name, err)
		}
	}
	s.assertNoBypass(t)
}
