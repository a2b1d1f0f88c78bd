package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

const previousStatus = "hubcap; fwd=stale; detail=previous"

// refusal is a refusal as a registry words it (OCI distribution specification,
// "Error Codes").
func refusal(status int, code string) *fakehub.Fault {
	return &fakehub.Fault{
		Status: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: fmt.Appendf(nil, `{"errors":[{"code":%q,"message":"no"}]}`, code),
	}
}

// page is what a firewall or a balancer answers with.
func page(status int) *fakehub.Fault {
	return &fakehub.Fault{Status: status, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>blocked</html>")}
}

// authorized passes the requests for manifests that show a token.
func authorized(q *fakehub.Request) bool {
	return q.Kind == fakehub.KindManifest && q.Authorization != ""
}

// TestRefusingEverything: a registry that refuses everything is an outage. What
// is held is served, and also when the line is cut afterwards.
func TestRefusingEverything(t *testing.T) {
	t.Parallel()
	manifests := fakehub.OfKind(fakehub.KindManifest)
	tokens := fakehub.OfKind(fakehub.KindToken)
	for name, script := range map[string]fakehub.Script{
		"401 despite a token":          fakehub.Always(refusal(401, "UNAUTHORIZED"), authorized),
		"403 as an OCI error":          fakehub.Always(refusal(403, "DENIED"), manifests),
		"403 and a web page":           fakehub.Always(page(403)),
		"404 and a web page":           fakehub.Always(page(404)),
		"401 and a web page":           fakehub.Always(page(401), manifests),
		"the token service: 401":       fakehub.Always(refusal(401, "UNAUTHORIZED"), tokens),
		"the token service: 403, page": fakehub.Always(page(403), tokens),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			repos := []string{"owner/a", "owner/b", "owner/c", "owner/d"}
			images := make(map[string]fakehub.Image)
			for i, repo := range repos {
				images[repo] = r.hub.Image(repo, "v1", fakehub.RandomBlob(uint64(i), 1000))
				r.pull(t, repo, images[repo])
			}
			pull := func(when, status string) {
				t.Helper()
				for _, repo := range repos {
					r.get("/v2/"+repo+"/manifests/v1").want(t, 200, images[repo].Body, status)
				}
				if t.Failed() {
					t.Fatal(when)
				}
			}
			r.clock.Advance(time.Minute)
			pull("well", "hubcap; fwd=stale; fwd-status=200")
			r.hub.RevokeTokens()
			r.hub.Script(script)
			for range 3 {
				r.clock.Advance(10 * time.Minute)
				pull("refused", staleStatus)
			}
			r.hub.Script(nil)
			r.hub.Down()
			r.clock.Advance(time.Minute)
			pull("down", staleStatus)
			r.hub.Up()
			r.clock.Advance(time.Minute)
			pull("up again", "hubcap; fwd=stale; fwd-status=200")
			if strings.HasPrefix(name, "403 as") && !strings.Contains(r.log.String(), "all of docker.io refuses") {
				t.Error("the operator is not told")
			}
		})
	}
}

// TestRefusedIsNotForgotten: one repository among others that is refused is not
// served, and is found again when its registry does not answer at all.
func TestRefusedIsNotForgotten(t *testing.T) {
	for _, status := range []int{401, 403} {
		r := newRig(t, rigOptions{})
		mine := r.hub.Image("owner/mine", "v1", fakehub.RandomBlob(1, 1000))
		other := r.hub.Image("owner/other", "v1", fakehub.RandomBlob(2, 1000))
		r.pull(t, "owner/mine", mine)
		r.pull(t, "owner/other", other)
		r.hub.SetPrivate("owner/mine")
		r.hub.Set(func(o *fakehub.Options) { o.HideUnknown = status == 401 })
		r.hub.RevokeTokens()
		for range 3 {
			r.clock.Advance(time.Minute)
			r.get("/v2/owner/other/manifests/v1").want(t, 200, other.Body, "hubcap; fwd=stale; fwd-status=200")
			r.get("/v2/owner/mine/manifests/v1").want(t, 404, nil, "")
		}
		r.hub.Down()
		r.clock.Advance(time.Minute)
		r.get("/v2/owner/mine/manifests/v1").want(t, 200, mine.Body, staleStatus)
	}
}

// TestEarlierDigest: while the blobs of what a tag has moved to cannot be had,
// the image that it named before is served, if it is held whole.
func TestEarlierDigest(t *testing.T) {
	t.Parallel()
	base := fakehub.RandomBlob(9, 1000) // all of the tag's images have it
	for name, tt := range map[string]struct {
		part bool // of the new image is held: a layer that the earlier one does not have
		gone bool // a layer of the earlier image
		want string
	}{
		"nothing of the new one":  {want: previousStatus},
		"a layer of the new one":  {part: true, want: staleStatus},
		"the earlier is not held": {gone: true, want: staleStatus}, // its base layer is
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			first := r.hub.Image("library/demo", "latest", base, fakehub.RandomBlob(1, 1000), fakehub.RandomBlob(2, 1000))
			r.pullWhole(t, "latest", first)
			second := r.hub.Image("library/demo", "latest", base, fakehub.RandomBlob(3, 1000), fakehub.RandomBlob(4, 1000))
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/latest").want(t, 200, second.Body, "")
			r.settle()
			if tt.part {
				r.get(blobPath("demo", second.Layers[1].Digest)).want(t, 200, nil, "")
				r.settle()
			}
			if tt.gone {
				r.ledger.Evict(first.Layers[1].Digest)
				r.cache.Remove(first.Layers[1].Digest)
			}
			r.hub.Down()
			r.clock.Advance(time.Minute)
			want := second.Body
			if tt.want == previousStatus {
				want = first.Body
			}
			r.get("/v2/demo/manifests/latest") // the registry is seen to fail
			r.get("/v2/demo/manifests/latest").want(t, 200, want, tt.want)
			head := r.do(http.MethodHead, "/v2/demo/manifests/latest")
			head.want(t, 200, nil, tt.want)
			r.get("/v2/demo/manifests/"+second.Manifest.Digest.String()).want(t, 200, second.Body, "")
		})
	}
}

// TestUseOfAnImage: an image whose manifest is pulled keeps the layers that its
// clients already have.
func TestUseOfAnImage(t *testing.T) {
	r := newRig(t, rigOptions{cache: 100 * kib})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 10*kib), fakehub.RandomBlob(2, 10*kib))
	r.pullWhole(t, "latest", img)
	for i := range 20 {
		r.clock.Advance(11 * time.Second)
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
		d := r.hub.AddRandomBlob("library/demo", uint64(100+i), 10*kib)
		r.get(blobPath("demo", d)).want(t, 200, nil, "")
		r.settle()
	}
	r.hub.Reset()
	for _, one := range append(img.Layers, img.Config) {
		r.get(blobPath("demo", one.Digest)).want(t, 200, nil, "hubcap; hit")
	}
}

// TestBlobsHostIsDown: the registry is well, and the host that it sends clients
// to for blobs is not. A tag that has moved is answered with the image before,
// an image that cannot be had at all is 503 at its manifest.
func TestBlobsHostIsDown(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*fakehub.Hub){
		"unreachable": func(h *fakehub.Hub) { h.Down(fakehub.RoleCDN) },
		"500": func(h *fakehub.Hub) {
			h.Script(fakehub.Always(&fakehub.Fault{Status: 500}, fakehub.OfKind(fakehub.KindCDN)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{tryAgain: time.Hour})
			base := fakehub.RandomBlob(9, 1000)
			first := r.hub.Image("library/demo", "latest", base, fakehub.RandomBlob(1, 1000))
			r.pullWhole(t, "latest", first)
			second := r.hub.Image("library/demo", "latest", base, fakehub.RandomBlob(3, 1000))
			r.hub.Image("library/cold", "latest", fakehub.RandomBlob(4, 1000))
			fail(r.hub)
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/latest").want(t, 200, second.Body, "")
			for i := range 4 { // different objects
				if got := r.get(blobPath("demo", r.hub.AddRandomBlob("library/demo", uint64(50+i), 1000))); got.StatusCode < 500 {
					t.Errorf("a blob that cannot be had: %d", got.StatusCode)
				}
			}
			r.get("/v2/demo/manifests/latest").want(t, 200, first.Body, previousStatus)
			for _, one := range append(first.Layers, first.Config) {
				r.get(blobPath("demo", one.Digest)).want(t, 200, nil, "hubcap; hit")
			}
			r.get("/v2/cold/manifests/latest").want(t, 503, nil, "")
		})
	}
}
