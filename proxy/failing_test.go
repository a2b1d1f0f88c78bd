package proxy_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// TestRequestsOfAFailingObject counts the requests that one client's GET of
// something that always fails causes: three for the object at most, however
// many layers of the program could repeat them.
func TestRequestsOfAFailingObject(t *testing.T) {
	layer := fakehub.RandomBlob(1, 12*mib)
	later := func(q *fakehub.Request) bool { return q.Offset >= 10*mib } // the last piece
	statuses := []int{500, 502, 503, 504, 429}
	if testing.Short() {
		statuses = []int{503, 429}
	}
	for name, tt := range map[string]struct {
		fails   []fakehub.Filter // of the requests that fail
		blob    bool
		prepare func(r *rig)
	}{
		"manifest":       {[]fakehub.Filter{fakehub.OfKind(fakehub.KindManifest)}, false, nil},
		"blob, registry": {[]fakehub.Filter{fakehub.OfKind(fakehub.KindBlob)}, true, nil},
		"blob, CDN":      {[]fakehub.Filter{fakehub.OfKind(fakehub.KindCDN)}, true, nil},
		"later piece":    {[]fakehub.Filter{fakehub.OfKind(fakehub.KindCDN), later}, true, nil},
		"token":          {[]fakehub.Filter{fakehub.OfKind(fakehub.KindToken)}, false, nil},
		"token, known realm": {[]fakehub.Filter{fakehub.OfKind(fakehub.KindToken)}, false, func(r *rig) {
			r.hub.Image("library/other", "latest", fakehub.RandomBlob(2, 10))
			r.get("/v2/other/manifests/latest").want(r.t.(*testing.T), 200, nil, "")
		}},
	} {
		for _, status := range statuses {
			t.Run(fmt.Sprintf("%s, %d", name, status), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, rigOptions{})
				r.hub.Image("library/demo", "latest", layer)
				if tt.prepare != nil {
					tt.prepare(r)
				}
				r.hub.Reset()
				r.hub.Script(fakehub.Always(&fakehub.Fault{Status: status, Header: http.Header{"Retry-After": {"3600"}}}, tt.fails...))
				path := "/v2/demo/manifests/latest"
				if tt.blob {
					path = blobPath("demo", digest.FromBytes(layer))
				}
				got := r.get(path)
				if got.StatusCode == 200 && len(got.body) == len(layer) {
					t.Errorf("status %d, %d bytes", got.StatusCode, len(got.body))
				}
				r.settle()
				want := 3
				if status == 429 {
					want = 1
				}
				n := r.hub.Count(append(tt.fails, fakehub.OfStatus(status))...)
				t.Logf("%d failing requests of %d in all", n, r.hub.Count())
				if n > want {
					t.Errorf("%d failing requests, want at most %d", n, want)
				}
			})
		}
	}
}

// TestIdleBoxAfterOneFailure: one image that the registry has no answer for is
// no trouble of the others; a registry that does not answer is, at once.
func TestIdleBoxAfterOneFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{tryAgain: time.Hour})
	r.hub.Image("library/bad", "latest", fakehub.RandomBlob(1, 1000))
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "") // without its layer
	for _, status := range []int{500, 503} {
		r.hub.Script(fakehub.Always(&fakehub.Fault{Status: status}, fakehub.OfRepo("library/bad"), fakehub.OfKind(fakehub.KindManifest)))
		r.get("/v2/bad/manifests/latest").want(t, 502, nil, "")
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
	}
	r.hub.Down(fakehub.RoleRegistry)
	r.clock.Advance(10 * time.Second) // less than the time of the tag, more than that of the last question
	r.get("/v2/bad/manifests/latest").want(t, 504, nil, "")
	r.get("/v2/demo/manifests/latest").want(t, 503, nil, "")
}

// TestSilentBody: a client waits for the first byte of a layer that never comes
// for one stall time-out, and once more.
func TestSilentBody(t *testing.T) {
	const stall = 300 * time.Millisecond
	r := newRig(t, rigOptions{stall: stall})
	layer := fakehub.RandomBlob(1, 1000)
	r.hub.Image("library/demo", "latest", layer)
	r.hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(0)}, fakehub.OfKind(fakehub.KindCDN)))
	begun := time.Now()
	got := r.get(blobPath("demo", digest.FromBytes(layer)))
	if got.err == nil || len(got.body) != 0 {
		t.Errorf("%d bytes, %v", len(got.body), got.err)
	}
	if n := r.cdn(digest.FromBytes(layer)); n != 2 {
		t.Errorf("the layer was asked for %d times in %s", n, time.Since(begun))
	}
	r.settle()
}
