package proxy_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
	"hubcap/proxy/upstream"
)

const (
	frozenHit = "hubcap; hit; detail=frozen"
	demo      = "library/demo"
	latest    = "/v2/demo/manifests/latest"
)

// repository is a repository of Docker Hub as an operator's order names it.
func (r *rig) repository(name string) pull.Repository {
	r.t.Helper()
	repo, err := r.handler.Pull.Repository(r.handler.Upstreams.Default(), name, pull.Identity{})
	must(r.t, err)
	return repo
}

// wantHead checks that a HEAD says the same as a GET.
func (r *rig) wantHead(path string, got reply) {
	r.t.Helper()
	head := r.do(http.MethodHead, path)
	for _, name := range []string{"Docker-Content-Digest", "Content-Length", "Content-Type", "Etag", "Cache-Status"} {
		if head.StatusCode != got.StatusCode || head.Header.Get(name) != got.Header.Get(name) {
			r.t.Errorf("HEAD: %d %s: %q, GET: %d %q", head.StatusCode, name, head.Header.Get(name), got.StatusCode, got.Header.Get(name))
		}
	}
}

// TestFrozenTag: a frozen tag keeps its digest while it moves, is deleted and its
// registry is down, after a restart and the loss of the index too; no client waits
// for the registry, and a pull by digest is what it was. Thawed, it follows again.
func TestFrozenTag(t *testing.T) {
	dir, hub := t.TempDir(), fakehub.Start(t, fakehub.Options{})
	open := func() *rig { return newRig(t, rigOptions{dir: dir, hub: hub}) }
	r := open()
	img := hub.Image(demo, "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	s, err := r.repository(demo).Freeze(t.Context(), "latest", freshness.FreezeOrder{Note: "1.28 breaks us"})
	if err != nil || s.Ref != "docker.io/library/demo:latest" {
		t.Fatalf("%+v, %v", s, err)
	}
	frozen := func() {
		t.Helper()
		got := r.get(latest)
		got.want(t, 200, img.Body, frozenHit)
		r.wantHead(latest, got)
		r.get(latest, "If-None-Match", got.Header.Get("Etag")).want(t, 304, []byte{}, frozenHit)
		r.get(latest, "If-None-Match", `"sha256:other"`).want(t, 200, img.Body, frozenHit)
	}
	moved := hub.Image(demo, "latest", fakehub.RandomBlob(2, 1000))
	hub.Reset()
	r.clock.Advance(59 * time.Minute)
	frozen()
	if n := len(hub.Log()); n != 0 {
		t.Errorf("asked %d times within an hour", n)
	}
	r.clock.Advance(time.Minute)
	frozen()
	eventually(t, "the registry is asked", func() bool {
		_, s, err := r.repository(demo).History("latest")
		return err == nil && s.Moved != nil && s.Moved.Digest == moved.Manifest.Digest
	})
	if gets, heads := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead); gets != 0 || heads != 1 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
	r.get("/v2/demo/manifests/"+moved.Manifest.Digest.String()).want(t, 200, moved.Body, "hubcap; fwd=uri-miss; stored")
	r.settle()
	hub.DeleteTag(demo, "latest")
	hub.DeleteManifest(demo, img.Manifest.Digest)
	r.clock.Advance(24 * time.Hour)
	frozen()
	r.get("/v2/demo/tags/list").want(t, 200, nil, "") // is the registry's
	hub.Down()
	r.clock.Advance(24 * time.Hour)
	frozen()
	for _, lose := range []func(){func() {}, func() { must(t, os.RemoveAll(filepath.Join(dir, "index"))) }} {
		r.stop()
		lose()
		r = open()
		frozen()
		r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "hubcap; hit")
	}
	if got := r.metric(`hubcap_tags{state="frozen"}`) + r.metric(`hubcap_tags{state="following"}`); got != "10" {
		t.Errorf("metrics %q", got)
	}
	hub.Up()
	hub.SetTag(demo, "latest", moved.Manifest.Digest)
	_, err = r.repository(demo).Thaw("latest")
	must(t, err)
	r.clock.Advance(time.Minute)
	r.get(latest).want(t, 200, moved.Body, "")
	r.get(latest).want(t, 200, moved.Body, "hubcap; hit")
}

// TestFrozenIsNotPrevious: in an outage, a tag that is not frozen is answered with
// an earlier image that is whole, and a frozen one is not.
func TestFrozenIsNotPrevious(t *testing.T) {
	for _, freeze := range []bool{false, true} {
		r := newRig(t, rigOptions{})
		earlier := r.hub.Image(demo, "latest", fakehub.RandomBlob(1, 1000))
		r.pullWhole(t, "latest", earlier)
		img := r.hub.Image(demo, "latest", fakehub.RandomBlob(2, 1000))
		r.clock.Advance(time.Minute)
		r.pullWhole(t, "latest", img)
		if freeze {
			_, err := r.repository(demo).Freeze(t.Context(), "latest", freshness.FreezeOrder{})
			must(t, err)
		}
		r.ledger.Evict(img.Layers[0].Digest)
		r.cache.Remove(img.Layers[0].Digest)
		r.hub.Down()
		r.clock.Advance(time.Minute)
		r.get("/v2/demo/manifests/unknown") // the registry is known to be down
		if got := r.get(latest); freeze {
			got.want(t, 503, nil, "")
		} else {
			got.want(t, 200, earlier.Body, "hubcap; fwd=stale; detail=previous")
		}
	}
}

// TestCooldownThroughTheProxy: clients get the old image while the new one waits,
// and the registry is asked no more than for any other tag.
func TestCooldownThroughTheProxy(t *testing.T) {
	r := newRig(t, rigOptions{cooldowns: []freshness.Cooldown{{Repository: "docker.io/**", Tag: "*", For: 48 * time.Hour}}})
	img := r.hub.Image(demo, "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	moved := r.hub.Image(demo, "latest", fakehub.RandomBlob(2, 1000))
	r.hub.Reset()
	r.clock.Advance(time.Minute)
	r.get(latest).want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200; detail=cooling")
	got := r.get(latest)
	got.want(t, 200, img.Body, "hubcap; hit; detail=cooling")
	r.wantHead(latest, got)
	if gets, heads := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead); gets != 0 || heads != 1 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
	r.hub.Down()
	r.clock.Advance(time.Minute)
	r.get(latest).want(t, 200, img.Body, "hubcap; fwd=stale; detail=upstream-failed")
	r.hub.Up()
	r.clock.Advance(time.Hour)
	if n := r.metric(`hubcap_tags{state="cooling"}`); n != "1" {
		t.Errorf("metric %q", n)
	}
	s, err := r.repository(demo).Adopt(t.Context(), "latest")
	if err != nil || s.Digest != moved.Manifest.Digest {
		t.Errorf("%+v, %v", s, err)
	}
	r.get(latest).want(t, 200, moved.Body, "")
	r.hub.Image(demo, "latest", fakehub.RandomBlob(3, 1000))
	r.clock.Advance(time.Minute)
	r.get(latest).want(t, 200, nil, "hubcap; fwd=uri-miss; stored") // the layers of the present one are not held
}

// TestFrozenShared: a shared repository is frozen under its own name; one that
// clients pull with their own accounts cannot be.
func TestFrozenShared(t *testing.T) {
	r, secret := newSharing(t, t.TempDir(), shared)
	r.pull(t, "owner/secret", secret)
	repo := r.repository("owner/secret")
	s, err := repo.Freeze(t.Context(), "v1", freshness.FreezeOrder{})
	if err != nil || !s.Shared {
		t.Fatalf("%+v, %v", s, err)
	}
	r.hub.Image("owner/secret", "v1", fakehub.RandomBlob(704, 1000))
	r.hub.Down()
	r.clock.Advance(24 * time.Hour)
	r.get("/v2/owner/secret/manifests/v1").want(t, 200, secret.Body, frozenHit)
	r.get("/v2/owner/third/manifests/v1").want(t, 504, nil, "")

	up := *r.handler.Upstreams.Default()
	up.Rules = upstream.Rules{Visibility: upstream.Passthrough}
	if _, err := r.handler.Pull.Repository(&up, "owner/secret", pull.Identity{}); !errors.Is(err, pull.ErrHidden) {
		t.Error(err)
	}
	own := repo
	own.View = access.Own
	if _, err := own.Freeze(t.Context(), "v1", freshness.FreezeOrder{}); !errors.Is(err, freshness.ErrPassthrough) {
		t.Error(err)
	}
}
