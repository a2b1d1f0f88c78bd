package proxy

import (
	"net/http"
	"strings"
	"testing"

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
