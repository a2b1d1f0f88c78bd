package proxy_test

import (
	"net/http"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

func TestTagInsideItsTTLAsksNobody(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=uri-miss; stored")
	r.hub.Reset()
	r.clock.Advance(59 * time.Second)
	for range 100 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
		r.do(http.MethodHead, "/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; hit")
	}
	if log := r.hub.Log(); len(log) != 0 {
		t.Errorf("%d upstream requests", len(log))
	}
}

func TestTagPastItsTTLIsConfirmedByOneHead(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
	r.hub.Reset()
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
	if gets, heads := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead); gets != 0 || heads != 1 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
}

func TestTagMovesByOneGetByDigest(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := newRig(t, rigOptions{})
		r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
		r.get("/v2/demo/manifests/latest").want(t, 200, nil, "")
		moved := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
		r.hub.Reset()
		r.clock.Advance(time.Minute)
		got := r.do(method, "/v2/demo/manifests/latest")
		got.want(t, 200, nil, "")
		if got.Header.Get("Docker-Content-Digest") != moved.Manifest.Digest.String() {
			t.Errorf("%s: not moved: %v", method, got.Header)
		}
		r.get("/v2/demo/manifests/latest").want(t, 200, moved.Body, "hubcap; hit")
		r.get("/v2/demo/manifests/"+moved.Manifest.Digest.String()).want(t, 200, moved.Body, "hubcap; hit")
		if gets, heads := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead); gets != 1 || heads != 1 {
			t.Errorf("%s: %d GETs, %d HEADs", method, gets, heads)
		}
	}
}

func TestTagStaysWhileItsNewManifestIsNotToBeHad(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	moved := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
	r.clock.Advance(time.Minute)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 429}, fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodGet)))
	got := r.get("/v2/demo/manifests/latest")
	got.want(t, 200, img.Body, "hubcap; fwd=stale; detail=upstream-failed")
	r.hub.Script(nil)
	r.clock.Advance(time.Minute) // the 429 asks for a pause
	r.get("/v2/demo/manifests/latest").want(t, 200, moved.Body, "hubcap; fwd=uri-miss; stored")
}

func TestStaleWhenTheUpstreamFails(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*fakehub.Hub){
		"down":               func(h *fakehub.Hub) { h.Down() },
		"500":                func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{Status: 500})) },
		"429":                func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{Status: 429})) },
		"token service dead": func(h *fakehub.Hub) { h.RevokeTokens(); h.Down(fakehub.RoleToken) },
		"web page":           func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{HTML: true})) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			hub := fakehub.Start(t, fakehub.Options{})
			img := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			r := newRig(t, rigOptions{hub: hub, dir: dir})
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
			r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "")
			r.get(blobPath("demo", img.Config.Digest)).want(t, 200, nil, "")
			r.settle()
			break_(hub)
			stale := func(when string) {
				t.Helper()
				r.clock.Advance(time.Hour)
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					got := r.do(method, "/v2/demo/manifests/latest")
					got.want(t, 200, nil, "hubcap; fwd=stale; detail=upstream-failed")
					if got.Header.Get("Warning") == "" || got.Header.Get("Age") == "" || got.Header.Get("Age") == "0" {
						t.Errorf("%s: not marked: %v", when, got.Header)
					}
				}
				r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "hubcap; hit")
			}
			stale("while running")
			r.stop()
			r = newRig(t, rigOptions{hub: hub, dir: dir})
			stale("started while the upstream fails")
			hub.Script(nil)
			hub.Up()
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
		})
	}
}

func TestDeletedTagIsDeletedHere(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, nil, "")
	r.hub.DeleteTag("library/demo", "latest")
	r.get("/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; hit")
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 404, nil, "")
	r.get("/v2/demo/manifests/latest").want(t, 404, nil, "")
	r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "hubcap; hit")
}

func TestRegistryWithoutHeadCostsOneGet(t *testing.T) {
	for name, fault := range map[string]*fakehub.Fault{
		"405":       {Status: 405},
		"no digest": {DropDigestHeader: true},
	} {
		r := newRig(t, rigOptions{})
		img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
		r.hub.Script(fakehub.Always(fault, fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodHead)))
		head := r.do(http.MethodHead, "/v2/demo/manifests/latest")
		head.want(t, 200, nil, "")
		if head.Header.Get("Docker-Content-Digest") != img.Manifest.Digest.String() || head.ContentLength != img.Manifest.Size {
			t.Errorf("%s: %v", name, head.Header)
		}
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
		r.clock.Advance(time.Minute)
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
		if gets := r.manifestRequests(http.MethodGet); gets != 2 {
			t.Errorf("%s: %d GETs", name, gets)
		}
	}
}

// TestOddHeadCostsOneRepository: where a HEAD tells no digest, the tags of other
// repositories go on costing a HEAD and no pull.
func TestOddHeadCostsOneRepository(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, name := range []string{"odd", "demo"} {
		r.hub.Image("library/"+name, "latest", fakehub.RandomBlob(1, 1000))
		r.get("/v2/"+name+"/manifests/latest").want(t, 200, nil, "")
	}
	r.hub.Script(fakehub.Once(&fakehub.Fault{DropDigestHeader: true}, fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodHead)))
	r.clock.Advance(time.Minute)
	r.get("/v2/odd/manifests/latest").want(t, 200, nil, "hubcap; fwd=uri-miss; stored")
	r.hub.Reset()
	r.get("/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; fwd=stale; fwd-status=200")
	if gets := r.manifestRequests(http.MethodGet); gets != 0 {
		t.Errorf("%d GETs", gets)
	}
}

func TestTagsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r := newRig(t, rigOptions{hub: hub, dir: dir})
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
	r.stop()
	hub.Reset()
	r = newRig(t, rigOptions{hub: hub, dir: dir})
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
	if len(hub.Log()) != 0 {
		t.Error("asked upstream inside the TTL")
	}
}

// TestTagAndDigestAtOnce asks by digest while the same manifest is on its way
// by tag: it crosses once.
func TestTagAndDigestAtOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	asked := make(chan struct{})
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Kind != fakehub.KindManifest || q.Reference != "latest" || q.Authorization == "" {
			return nil
		}
		close(asked)
		return &fakehub.Fault{BodyDelay: 50 * time.Millisecond}
	})
	byTag := make(chan error)
	go func() {
		_, err := r.try(t.Context(), http.MethodGet, "/v2/demo/manifests/latest")
		byTag <- err
	}()
	<-asked
	r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "")
	must(t, <-byTag)
	if gets := r.manifestRequests(http.MethodGet); gets != 1 {
		t.Errorf("%d GETs", gets)
	}
}
