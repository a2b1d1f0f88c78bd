package upstream

import (
	"net/http"
	"testing"

	"hubcap/e2e/fakehub"
)

const (
	ociDenied = `{"errors":[{"code":"DENIED","message":"no"}]}`
	errorPage = "<html><body>403 Forbidden</body></html>"
)

// TestWhoseRefusal: an Error says whose word a 401, 403 or 404 is.
func TestWhoseRefusal(t *testing.T) {
	t.Parallel()
	withToken := func(r *fakehub.Request) bool { return r.Kind == fakehub.KindManifest && r.Authorization != "" }
	typed := func(mediaType string) http.Header { return http.Header{"Content-Type": {mediaType}} }
	oci := &fakehub.Fault{Status: 403, Header: typed("application/json; charset=utf-8"), Body: []byte(ociDenied)}
	tests := []struct {
		name      string
		script    fakehub.Script
		options   fakehub.Options
		private   bool
		get, head Refusal
		code      string // of the answer to a GET
	}{
		{name: "403 as an OCI error", script: fakehub.Always(oci, withToken), get: ByRegistry, head: ByRegistry, code: "DENIED"},
		{name: "403 page", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("text/html"), Body: []byte(errorPage)}, withToken), get: NotOCI, head: NotOCI},
		{name: "404 page", script: fakehub.Always(&fakehub.Fault{Status: 404, Header: typed("text/html"), Body: []byte(errorPage)}, withToken), get: NotOCI, head: NotOCI},
		{name: "401 page before a token is asked for", script: fakehub.Always(&fakehub.Fault{Status: 401, Header: typed("text/html"), Body: []byte(errorPage)}, fakehub.OfKind(fakehub.KindManifest)), get: NotOCI, head: NotOCI},
		{name: "403 without a word", script: fakehub.Always(&fakehub.Fault{Status: 403}, withToken), get: NotOCI, head: NotOCI},
		{name: "403 of Docker's API without a type", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: http.Header{"Docker-Distribution-Api-Version": {"registry/2.0"}}, Body: []byte(ociDenied)}, withToken), get: ByRegistry, head: ByRegistry, code: "DENIED"},
		{name: "403 in JSON of another kind", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("application/json"), Body: []byte(`{"error":"no"}`)}, withToken), get: NotOCI, head: ByRegistry},
		{name: "403 with an empty list of errors", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("application/json"), Body: []byte(`{"errors":[]}`)}, withToken), get: NotOCI, head: ByRegistry},
		{name: "401 to a token that grants the pull", script: fakehub.Always(&fakehub.Fault{Status: 401, Header: typed("application/json"), Body: []byte(ociDenied)}, withToken), get: DespiteToken, head: DespiteToken, code: "DENIED"},
		{name: "401 page to a token that grants the pull", script: fakehub.Always(&fakehub.Fault{Status: 401, Header: typed("text/html"), Body: []byte(errorPage)}, withToken), get: DespiteToken, head: DespiteToken},
		{name: "401 to an opaque token", options: fakehub.Options{OpaqueTokens: true}, script: fakehub.Always(&fakehub.Fault{Status: 401, Header: typed("application/json"), Body: []byte(ociDenied)}, withToken), get: ByRegistry, head: ByRegistry, code: "DENIED"},
		{name: "401 to a token that grants nothing", private: true, get: ByRegistry, head: ByRegistry, code: "UNAUTHORIZED"},
		{name: "no token", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("application/json"), Body: []byte(ociDenied)}, fakehub.OfKind(fakehub.KindToken)), get: ByTokenService, head: ByTokenService},
		{name: "a page for a token", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("text/html"), Body: []byte(errorPage)}, fakehub.OfKind(fakehub.KindToken)), get: NotOCI, head: NotOCI},
		{name: "404 as an OCI error", script: fakehub.Always(&fakehub.Fault{Status: 404, Header: typed("application/json"), Body: []byte(`{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)}, withToken), get: ByRegistry, head: ByRegistry, code: "MANIFEST_UNKNOWN"},
		{name: "trouble", script: fakehub.Always(&fakehub.Fault{Status: 501, Header: typed("application/json"), Body: []byte(`{"errors":[{"code":"UNSUPPORTED"}]}`)}, withToken), get: NoRefusal, head: NoRefusal, code: "UNSUPPORTED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, tt.options)
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			if tt.private {
				hub.SetPrivate(repo)
			}
			hub.Script(tt.script)
			for method, want := range map[string]Refusal{http.MethodGet: tt.get, http.MethodHead: tt.head} {
				var err error
				code := ""
				if method == http.MethodGet {
					code = tt.code
					_, err = client.GetManifest(within(t), repo, "latest")
				} else {
					err = client.head(within(t))
				}
				e := asError(t, err)
				if e.Refusal != want || e.Code != code {
					t.Errorf("%s: got %q, code %q, want %q, %q: %v", method, e.Refusal, e.Code, want, code, err)
				}
				client.tellsNothing(t, err, secretsOf(hub)...)
			}
		})
	}
}

// TestCallersTokenIsNoEvidence: what a caller's token claims is the caller's
// word, and makes nothing of a registry's refusal.
func TestCallersTokenIsNoEvidence(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	token := hub.Token("", repo)
	hub.RevokeTokens()
	_, err := client.As(token).GetManifest(within(t), repo, "latest")
	if e := wantKind(t, err, Denied); e.Refusal != ByRegistry {
		t.Errorf("got %q: %v", e.Refusal, err)
	}
}

// TestRefusalBehindRedirect: only the registry refuses content.
func TestRefusalBehindRedirect(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	d := hub.AddBlob(repo, []byte("x"))
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 403, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(ociDenied)}, fakehub.OfKind(fakehub.KindCDN)))
	_, err := client.OpenBlob(within(t), repo, d, 0, -1)
	if e := wantKind(t, err, ServerError); e.Refusal != NoRefusal || e.Code != "" {
		t.Errorf("got %q, code %q: %v", e.Refusal, e.Code, err)
	}
}
