package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// refusing has the hub answer requests for manifests and blobs, once let in,
// with an OCI error.
func refusing(status int, code, message string) fakehub.Script {
	return fakehub.Always(&fakehub.Fault{
		Status: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: []byte(fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)),
	}, fakehub.OfKind(fakehub.KindManifest, fakehub.KindBlob), func(q *fakehub.Request) bool { return q.Authorization != "" })
}

// TestWithdrawn: what a registry has, and says that it gives to nobody, is not
// given from here either.
func TestWithdrawn(t *testing.T) {
	for status, want := range map[int]struct {
		status   int
		manifest string
		blob     string
	}{
		402: {403, "DENIED", "DENIED"}, 412: {403, "DENIED", "DENIED"}, 451: {403, "DENIED", "DENIED"}, 410: {404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"},
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{keepDeleted: status != 410}) // what is deleted, and not what is withdrawn
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			r.pullWhole(t, "latest", img)
			d := r.hub.AddBlob("library/demo", []byte("never pulled"))
			r.clock.Advance(time.Minute)
			r.hub.Script(refusing(status, "PROJECTPOLICYVIOLATION", "current image with 3 vulnerabilities?x=y\ncannot be pulled"))
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} {
				got := r.do(method, "/v2/demo/manifests/latest")
				got.want(t, want.status, nil, "")
				if code := got.code(); method == http.MethodGet && code != want.manifest {
					t.Errorf("got %s, want %s", code, want.manifest)
				}
			}
			got := r.get(blobPath("demo", d))
			if got.want(t, want.status, nil, ""); got.code() != want.blob {
				t.Errorf("blob: got %s, want %s", got.code(), want.blob)
			}
			if !strings.Contains(r.log.String(), "PROJECTPOLICYVIOLATION: current image with 3 vulnerabilities… cannot be pulled\"\n") {
				t.Errorf("the log does not say what the registry says:\n%s", r.log)
			}
			// It is forgotten: an outage does not bring it back.
			r.clock.Advance(time.Minute)
			r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
			r.get("/v2/demo/manifests/latest").want(t, 502, nil, "")
			r.hub.Script(nil)
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
		})
	}
}

// TestWithdrawnByAPage: a firewall's page takes nothing away.
func TestWithdrawnByAPage(t *testing.T) {
	for _, status := range []int{402, 412, 451} {
		r := newRig(t, rigOptions{})
		img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
		r.pullWhole(t, "latest", img)
		r.clock.Advance(time.Minute)
		r.hub.Script(fakehub.Always(&fakehub.Fault{Status: status, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>blocked</html>")}))
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	}
}
