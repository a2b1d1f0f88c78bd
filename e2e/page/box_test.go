package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	os.Exit(testkit.Main{M: m}.Run())
}

// soon is how long a test waits for what should happen at once.
const soon = 30 * time.Second

// markup is a text that would change a page that does not escape it.
const markup = `<script>document.title="owned"</script><img src=x onerror=alert(1)>"'&`

// box is a hubcap that runs inside the test.
type box struct {
	*testbox.Box
	spare string // digest of a layer that no other image has
}

// start starts a hubcap and returns when it is ready.
func start(t *testing.T) *box {
	t.Helper()
	if testing.Short() {
		t.Skip("Chromium takes its time: not with -short")
	}
	b := testbox.Start(t, "HUBCAP_CACHE_SIZE=256MiB", "HUBCAP_TAG_TTL=1s", "HUBCAP_TAG_COOLDOWN=*:rolling=48h",
		"HUBCAP_UPSTREAM_1_HOST=registry.corp.example", "HUBCAP_UPSTREAM_1_URL=http://127.0.0.1:1", "HUBCAP_UPSTREAM_1_PRIVATE_CIDRS=127.0.0.0/8")
	return &box{Box: b}
}

// ask asks the API for a document, which it decodes into out.
func (b *box) ask(method, route string, body, out any) {
	b.T.Helper()
	text, _ := json.Marshal(body)
	req, err := http.NewRequest(method, b.Admin+"/api/v1/"+route, bytes.NewReader(text))
	if err != nil {
		b.T.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+b.Token("admin-token"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.T.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 400 {
		b.T.Fatalf("%s %s: %s %v: %s", method, route, resp.Status, err, answer)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			b.T.Fatal(err)
		}
	}
}

const (
	dockerd    = "docker/27.3.1 go/go1.22.7 git-commit/41ca978 kernel/6.8.0 os/linux arch/amd64 UpstreamClient(Docker-Client/27.3.1 \\(linux\\))"
	containerd = "containerd/v2.0.0"
)

// fill gives the box a past: images of several kinds, clients, pins, a freeze, a
// cool-down, jobs, errors, and names with markup wherever somebody else chooses them.
func (b *box) fill() {
	b.T.Helper()
	hub := b.Hub
	hub.Image("library/alpine", "3.20", fakehub.RandomBlob(1, 3_400_000))
	amd := hub.Image("library/python", "", fakehub.RandomBlob(2, 9_000_000), fakehub.RandomBlob(3, 1_200_000))
	arm := hub.Image("library/python", "", fakehub.RandomBlob(4, 8_000_000))
	arm.Manifest.Platform.Architecture = "arm64"
	hub.Index("library/python", "3.12", amd.Manifest, arm.Manifest)
	hub.Image("library/nginx", "1.27", fakehub.RandomBlob(5, 6_000_000))
	hub.Image("library/app", "rolling", fakehub.RandomBlob(6, 500_000))
	hub.Image("library/other", "v1", fakehub.RandomBlob(7, 700_000))
	long := hub.Image("library/a-team-with-a-long-name/service-with-quite-a-long-name", "2026-11-28-build.4711-linux-amd64", fakehub.RandomBlob(8, 300_000))
	b.spare = long.Layers[0].Digest.String()
	for i := range 3 {
		b.Pull(dockerd, "library/alpine", "3.20")
		if i > 0 {
			b.Pull(containerd, "library/python", "3.12")
		}
	}
	b.Pull(dockerd, "library/nginx", "1.27")
	b.Pull(dockerd, "library/app", "rolling")
	b.Pull(containerd, "library/a-team-with-a-long-name/service-with-quite-a-long-name", "2026-11-28-build.4711-linux-amd64")
	hub.Image("library/nginx", "1.27", fakehub.RandomBlob(9, 6_100_000))
	hub.Image("library/app", "rolling", fakehub.RandomBlob(10, 510_000))
	time.Sleep(1100 * time.Millisecond) // the TTL of tags
	b.Pull(dockerd, "library/nginx", "1.27")
	b.Pull(dockerd, "library/app", "rolling")
	b.Get(dockerd, "library/gone/manifests/v1")
	b.Get(containerd, "registry.corp.example/team/app/manifests/v1")
	b.Get(markup, url.PathEscape(markup)+"/manifests/"+url.PathEscape(markup))
	b.Get(dockerd, "harbor.unknown.example/team/app/manifests/v1")
	b.ask("PUT", "pins", map[string]any{"ref": "alpine:3.20", "note": "base image " + markup}, nil)
	b.ask("POST", "image/freeze", map[string]any{"ref": "python:3.12", "note": markup}, nil)
	b.ask("POST", "warm", map[string]any{"refs": []string{"other:v1"}, "every_s": 86400}, nil)
	b.ask("POST", "warm", map[string]any{"refs": []string{"none:v1", "alpine:3.20"}}, nil)
}

// eventually waits until the API says something of a document.
func eventually[T any](b *box, route string, holds func(T) bool) {
	b.T.Helper()
	var last T
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		last = *new(T)
		b.ask("GET", route, nil, &last)
		if holds(last) {
			return
		}
	}
	b.T.Errorf("%s: %s", route, fmt.Sprintf("%+v", last))
}
