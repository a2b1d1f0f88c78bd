package proxy_test

import (
	"net/http"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// oddHeads are answers to HEAD of registries, and of balancers before them,
// that answer GET as they should.
func oddHeads(hub *fakehub.Hub) map[string]*fakehub.Fault {
	refused := func(status int, mediaType string) *fakehub.Fault {
		return &fakehub.Fault{Status: status, Header: http.Header{"Content-Type": {mediaType}}, Body: []byte{}}
	}
	called := func(mediaType string) *fakehub.Fault {
		return &fakehub.Fault{Header: http.Header{"Content-Type": {mediaType}}}
	}
	return map[string]*fakehub.Fault{
		"404":                   refused(404, "application/json"),
		"404 page":              refused(404, "text/html"),
		"410":                   refused(410, "application/json"),
		"403":                   refused(403, "application/json"),
		"401":                   refused(401, "application/json"),
		"451":                   refused(451, "application/json"),
		"400":                   refused(400, "application/json"),
		"405":                   refused(405, "application/json"),
		"406":                   refused(406, "application/json"),
		"204":                   refused(204, "application/json"),
		"500":                   refused(500, "application/json"),
		"501":                   refused(501, "application/json"),
		"signed for GET":        {Redirect: hub.CDNURL() + "/nothing?signature=of-GET"},
		"a length of 0":         {Body: []byte{}},
		"no length":             {NoLength: true},
		"no digest":             {DropDigestHeader: true},
		"no type":               {DropContentType: true},
		"octets":                called("application/octet-stream"),
		"text":                  called("text/plain; charset=utf-8"),
		"a type of no manifest": called("image/png"),
		"a page":                called("text/html"),
	}
}

// playHead plays a fault at every HEAD of a manifest that was let in.
func (r *rig) playHead(f *fakehub.Fault) {
	r.hub.Script(fakehub.Always(f, fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodHead),
		func(q *fakehub.Request) bool { return q.Authorization != "" }))
}

// TestHeadIsNotBelievedAgainstGet: whatever a registry answers to HEAD, what
// GET says counts: a pull gets its image, and tags go on moving, by GET for an
// hour.
func TestHeadIsNotBelievedAgainstGet(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	for name, fault := range oddHeads(hub) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			if fault.Redirect != "" {
				fault = &fakehub.Fault{Redirect: r.hub.CDNURL() + "/nothing?signature=of-GET"}
			}
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			r.playHead(fault)
			r.do(http.MethodHead, "/v2/demo/manifests/latest")
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
			r.do(http.MethodHead, "/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; hit")

			moved := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/latest").want(t, 200, moved.Body, "")
			r.hub.Reset()
			for range 3 { // it is asked by GET from then on
				r.clock.Advance(time.Minute)
				r.get("/v2/demo/manifests/latest").want(t, 200, moved.Body, "")
			}
			if heads, gets := r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet); heads != 0 || gets != 3 {
				t.Errorf("%d HEADs and %d GETs, want 0 and 3", heads, gets)
			}
			// By digest too, HEAD first.
			other := r.hub.Image("library/demo", "other", fakehub.RandomBlob(3, 1000))
			r.do(http.MethodHead, "/v2/demo/manifests/"+other.Manifest.Digest.String()).want(t, 200, nil, "")

			// A registry that has been mended is asked by HEAD again.
			r.hub.Script(nil)
			r.clock.Advance(time.Hour)
			r.hub.Reset()
			r.get("/v2/demo/manifests/latest").want(t, 200, moved.Body, "hubcap; fwd=stale; fwd-status=200")
			if heads, gets := r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet); heads != 1 || gets != 0 {
				t.Errorf("later %d HEADs and %d GETs, want 1 and 0", heads, gets)
			}
		})
	}
}

// TestOddHeadByDigest: a HEAD of a digest that is odd is not believed either.
func TestOddHeadByDigest(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	for name, fault := range oddHeads(hub) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			if fault.Redirect != "" {
				fault = &fakehub.Fault{Redirect: r.hub.CDNURL() + "/nothing?signature=of-GET"}
			}
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			r.playHead(fault)
			path := "/v2/demo/manifests/" + img.Manifest.Digest.String()
			r.do(http.MethodHead, path)
			r.get(path).want(t, 200, img.Body, "")
			r.do(http.MethodHead, path).want(t, 200, nil, "hubcap; hit")
		})
	}
}

// TestMissingTagCostsFewRequests: HEAD, GET and HEAD again of what is not there
// cost a HEAD and a GET, and nothing for as long as that is remembered.
func TestMissingTagCostsFewRequests(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	for _, reference := range []string{"nothing", sha([]byte("nothing"))} {
		r.hub.Reset()
		for range 3 {
			for _, method := range []string{http.MethodHead, http.MethodHead, http.MethodGet, http.MethodHead, http.MethodGet} {
				r.do(method, "/v2/demo/manifests/"+reference).want(t, 404, nil, "")
			}
		}
		if heads, gets := r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet); heads != 1 || gets != 1 {
			t.Errorf("%s: %d HEADs and %d GETs, want 1 and 1", reference, heads, gets)
		}
	}
	// What is missing says nothing of how the others are asked for.
	r.get("/v2/demo/manifests/latest").want(t, 200, nil, "")
	r.clock.Advance(time.Minute)
	r.hub.Reset()
	r.get("/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; fwd=stale; fwd-status=200")
	if heads, gets := r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet); heads != 1 || gets != 0 {
		t.Errorf("%d HEADs and %d GETs, want 1 and 0", heads, gets)
	}
}
