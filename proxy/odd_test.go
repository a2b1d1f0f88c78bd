package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// TestSchema1IsNamed: a client whose image is of Docker's first format learns
// why it does not get it, and so does the log.
func TestSchema1IsNamed(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 10))
	r.hub.Script(fakehub.Always(&fakehub.Fault{
		Header: http.Header{"Content-Type": {"application/vnd.docker.distribution.manifest.v1+prettyjws"}},
		Body:   []byte(`{"schemaVersion":1,"fsLayers":[],"signatures":[]}`),
	}, fakehub.OfKind(fakehub.KindManifest), func(q *fakehub.Request) bool { return q.Authorization != "" }))
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		got := r.do(method, "/v2/demo/manifests/latest")
		got.want(t, 502, nil, "")
		if method == http.MethodGet && (got.code() != "UNSUPPORTED" || !strings.Contains(string(got.body), "schema 1")) {
			t.Errorf("the client is told %s", got.body)
		}
	}
	if !strings.Contains(r.log.String(), "schema 1, which is not supported: application/vnd.docker.distribution.manifest.v1+prettyjws") {
		t.Errorf("the log does not name the type:\n%s", r.log)
	}
}

// TestEncodedColon: a digest has one spelling, and who uses another one is told.
func TestEncodedColon(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := strings.Replace(sha([]byte("x")), ":", "%3A", 1)
	for _, path := range []string{"manifests", "blobs", "referrers"} {
		for _, reference := range []string{d, strings.ToLower(d), "sha512%3a00"} {
			got := r.get("/v2/demo/" + path + "/" + reference)
			got.want(t, 400, nil, "")
			if got.code() != "DIGEST_INVALID" || !strings.Contains(string(got.body), "%3A") {
				t.Errorf("%s %s: %s", path, reference, got.body)
			}
		}
	}
	if n := r.asked.Load(); n != 0 {
		t.Errorf("%d requests to registries", n)
	}
}

// TestDigestThatIsNotServed: hubcap names no digest by which it would not be
// asked.
func TestDigestThatIsNotServed(t *testing.T) {
	for _, first := range []string{http.MethodHead, http.MethodGet} {
		r := newRig(t, rigOptions{})
		img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 10))
		long := digest.SHA384.FromBytes(img.Body)
		r.hub.Script(fakehub.Always(&fakehub.Fault{WrongDigestHeader: long.String()}, fakehub.OfKind(fakehub.KindManifest)))
		r.get("/v2/demo/manifests/"+long.String()).want(t, 400, nil, "")
		for _, method := range []string{first, http.MethodHead, http.MethodGet} {
			got := r.do(method, "/v2/demo/manifests/latest")
			got.want(t, 200, nil, "")
			if named := got.Header.Get("Docker-Content-Digest"); named != img.Manifest.Digest.String() {
				t.Errorf("%s names %s", method, named)
			}
		}
	}
}
