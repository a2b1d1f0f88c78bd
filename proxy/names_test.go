package proxy_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream"
)

// A ping is answered for the registries that are there, and the namespace is
// echoed where it is known.
func TestPingAndNamespace(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	for _, tc := range []struct {
		path   string
		status int
		echo   string
	}{
		{"/v2/", 200, ""},
		{"/v2", 200, ""},
		{"/v2/?ns=quay.io", 200, "quay.io"}, // which is down
		{"/v2/?ns=other.example", 404, ""},
		{"/ghcr.io/v2/", 200, ""},
		{"/ghcr.io/v2", 200, ""},
		{"/harbor/v2/?ns=harbor", 200, "harbor"},
		{"/other.example/v2/", 404, ""},
		{"/..%2f/v2/", 400, ""},
		{"/ghcr.io/v2/?ns=docker.io", 404, ""},
		{"/v2/demo/manifests/latest?ns=docker.io", 200, "docker.io"},
		{"/v2/demo/manifests/latest?ns=INDEX.docker.io", 200, "INDEX.docker.io"},
		{"/v2/demo/manifests/other?ns=docker.io", 404, "docker.io"},
		{"/v2/demo/manifests/latest?ns=other.example", 404, ""},
		{"/v2/demo/manifests/latest", 200, ""},
	} {
		got := r.get(tc.path)
		if got.StatusCode != tc.status || got.Header.Get("OCI-Namespace") != tc.echo {
			t.Errorf("%s: %d, OCI-Namespace %q; want %d, %q", tc.path, got.StatusCode, got.Header.Get("OCI-Namespace"), tc.status, tc.echo)
		}
	}
}

// TestOneImageUnderEverySpelling pulls one image under every name that it has,
// and each of its blobs crosses once.
func TestOneImageUnderEverySpelling(t *testing.T) {
	r := newRig(t, rigOptions{rules: upstream.Rules{Deny: []string{"team/**"}}}) // so that nobody takes Docker Hub's for another's
	layers := [][]byte{fakehub.RandomBlob(1, 300*kib), fakehub.RandomBlob(2, 2*mib)}
	img := r.hub.Image("library/demo", "latest", layers...)
	r.hub.Image("team/app", "latest", layers...)
	blobs := append([]v1.Descriptor{img.Config}, img.Layers...)
	harbor, ok := r.handler.Upstreams.Find("harbor")
	if !ok {
		t.Fatal("harbor is not there")
	}
	further := httptest.NewServer(r.handler.For(harbor))
	defer further.Close()
	for _, spelling := range []string{ // with … for what is asked of the repository
		"/v2/demo/…",
		"/v2/library/demo/…",
		"/v2/demo/…?ns=docker.io",
		"/v2/library/demo/…?ns=docker.io",
		"/v2/library/demo/…?ns=index.docker.io:443",
		"/v2/library/demo/…?ns=registry-1.docker.io",
		"/v2/docker.io/demo/…",
		"/v2/docker.io/library/demo/…",
		"/v2/Index.Docker.io/library/demo/…",
		"/v2/docker.io/library/demo/…?ns=docker.io",
		"/docker.io/v2/library/demo/…",
		"/docker.io/v2/demo/…?ns=docker.io",
		further.URL + "/v2/docker.io/demo/…",
		"/v2/team/app/…?ns=ghcr.io",
		"/v2/ghcr.io/team/app/…",
		"/v2/ghcr.io/team/app/…?ns=ghcr.io",
		"/ghcr.io/v2/team/app/…",
		"/v2/team/app/…?ns=harbor",
		"/harbor/v2/team/app/…",
		further.URL + "/v2/team/app/…",
		"/v2/team/app/…?ns=registry.example.com:8443",
		"/v2/registry.example.com:8443/team/app/…",
		"/registry.example.com:8443/v2/team/app/…",
	} {
		ask := func(what string) reply { return r.get(strings.Replace(spelling, "…", what, 1)) }
		tag := ask("manifests/latest")
		tag.want(t, 200, nil, "")
		if digest.FromBytes(tag.body) != img.Manifest.Digest && !strings.Contains(spelling, "team") {
			t.Fatalf("%s: another manifest", spelling)
		}
		byDigest := ask("manifests/" + digest.FromBytes(tag.body).String())
		byDigest.want(t, 200, tag.body, "")
		for i, one := range blobs {
			got := ask("blobs/" + one.Digest.String())
			got.want(t, 200, nil, "")
			if digest.FromBytes(got.body) != one.Digest || i > 0 && !bytes.Equal(got.body, layers[i-1]) {
				t.Errorf("%s: blob %d is another one", spelling, i)
			}
		}
		r.settle()
	}
	for _, one := range blobs {
		if n := r.cdn(one.Digest); n != 1 {
			t.Errorf("%s crossed %d times", one.Digest, n)
		}
	}
	r.get("/v2/demo/tags/list?ns=docker.io&n=1").want(t, 200, nil, "")
	if n := r.hub.Count(func(q *fakehub.Request) bool { return strings.Contains(q.Query, "ns=") }); n != 0 {
		t.Errorf("%d requests brought ns to the registry", n)
	}
	// One look a registry and repository for the tag: four of them.
	if n := r.manifestRequests(http.MethodHead) + r.manifestRequests(http.MethodGet); n > 2*4 {
		t.Errorf("%d requests for manifests", n)
	}
	if n := r.hub.Count(fakehub.OfKind(fakehub.KindBlob), fakehub.Not(fakehub.OfStatus(401))); n != len(blobs) {
		t.Errorf("%d requests for blobs at the registry, want %d", n, len(blobs))
	}
}
