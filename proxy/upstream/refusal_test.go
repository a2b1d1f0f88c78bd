package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
)

const (
	ociDenied = `{"errors":[{"code":"DENIED","message":"no"}]}`
	errorPage = "<html><body>403 Forbidden</body></html>"
)

// TestWhoseRefusal: an Error says what a 401, 403 or 404 comes from.
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
		code      string
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
		{name: "no token", script: fakehub.Always(&fakehub.Fault{Status: 403, Header: typed("application/json"), Body: []byte(ociDenied)}, fakehub.OfKind(fakehub.KindToken)), get: ByTokenService, head: ByTokenService, code: "DENIED"},
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
				code := tt.code
				if method == http.MethodHead && want != ByTokenService {
					code = "" // its answer has no text
				}
				if method == http.MethodGet {
					_, err = client.GetManifest(within(t), repo, "latest")
				} else {
					err = client.head(within(t))
				}
				e := asError(t, err)
				if e.Refusal != want || e.Code != code {
					t.Errorf("%s: got %d, code %q, want %d, %q: %v", method, e.Refusal, e.Code, want, code, err)
				}
				client.wantNoSecrets(t, err, secretsOf(hub)...)
			}
		})
	}
}

// TestCallersTokenIsNoEvidence: the claims in a caller's token, which may be
// forged, do not make a registry's refusal trouble.
func TestCallersTokenIsNoEvidence(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	token := hub.Token("", repo)
	hub.RevokeTokens()
	_, err := client.As(token).GetManifest(within(t), repo, "latest")
	if e := wantKind(t, err, Denied); e.Refusal != ByRegistry {
		t.Errorf("got %d: %v", e.Refusal, err)
	}
}

// TestRefusalBehindRedirect: a refusal of a redirect target is no answer about
// the content.
func TestRefusalBehindRedirect(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	d := hub.AddBlob(repo, []byte("x"))
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 403, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(ociDenied)}, fakehub.OfKind(fakehub.KindCDN)))
	_, err := client.OpenBlob(within(t), repo, d, 0, -1)
	if e := wantKind(t, err, ServerError); e.Refusal != NoRefusal || e.Code != "" {
		t.Errorf("got %d, code %q: %v", e.Refusal, e.Code, err)
	}
}

// TestWordsOfARefusal: errors quote the registry's message without any secret in
// it.
func TestWordsOfARefusal(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", maxMessage)
	tests := []struct{ name, text, code, message string }{
		{"plain", ociDenied, "DENIED", "no"},
		{"the first of two", `{"errors":[{"code":"A","message":"a"},{"code":"B","message":"b"}]}`, "A", "a"},
		{"lines and controls", `{"errors":[{"code":"A\nB","message":" a\r\n\tb\u0000c\u001b[31md "}]}`, "A B", "a b c [31md"},
		{"long", `{"errors":[{"code":"A","message":"` + long + `x"}]}`, "A", long},
		{"invalid UTF-8", "{\"errors\":[{\"code\":\"A\",\"message\":\"a\xffb\"}]}", "A", "a b"},
		{"query", `{"errors":[{"code":"A","message":"see https://cdn.example/x?signature=1&b=2 or not"}]}`, "A", "see https://cdn.example/x… or not"},
		{"userinfo", `{"errors":[{"code":"A","message":"http://name:word@host/"}]}`, "A", "http:…host/"},
		{"token", `{"errors":[{"code":"A","message":"Bearer abcdefgh.x is bad, eyJhbGciOi.eyJhIjox.c2ln too"}]}`, "A", "… is bad, … too"},
		{"what was sent", `{"errors":[{"code":"` + canary + `","message":"user box, ` + canary + `!"}]}`, "…", "user box, …!"},
		{"named secret", `{"errors":[{"code":"A","message":"access_token=abc password: x"}]}`, "A", "… …"},
		{"Docker Hub's token service", `{"details":"incorrect username or password"}`, "", "incorrect username or password"},
		{"OAuth 2", `{"error":"invalid_grant","error_description":"x"}`, "", "invalid_grant"},
		{"an object for an error", `{"error":{"code":5},"message":"m"}`, "", "m"},
		{"a page", errorPage, "", ""},
		{"a list", `[]`, "", ""},
		{"nothing", ``, "", ""},
	}
	for _, tt := range tests {
		if code, message := words([]byte(tt.text), []string{canary}); code != tt.code || message != tt.message {
			t.Errorf("%s: got %q, %q, want %q, %q", tt.name, code, message, tt.code, tt.message)
		}
	}
}

// TestEchoedSecrets: secrets that a registry or token service repeats from the
// request are in no error.
func TestEchoedSecrets(t *testing.T) {
	t.Parallel()
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		user, password, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s got %s and %s %s %s"}]}`, user, sent, password, r.FormValue("refresh_token"), r.URL)
	}
	for name, login := range map[string]change{
		"password": withCredentials,
		"token":    func(o *Options) { o.Token = canary },
	} {
		for _, at := range []string{"token service", "registry"} {
			t.Run(name+"/"+at, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, newRecorder, newRecorder)
				s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), login)
				s.registry.answer = challenging(s.bearer(s.token.URL))
				if at == "token service" {
					s.token.answer = echo
				} else {
					s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
						if r.Header.Get("Authorization") == "" {
							challenging(s.bearer(s.token.URL))(w, r)
							return
						}
						echo(w, r)
					}
				}
				_, err := s.client.GetManifest(within(t), repo, "latest")
				if e := wantKind(t, err, Denied); e.Code != "DENIED" || !strings.Contains(err.Error(), "DENIED: ") {
					t.Errorf("got %v", err)
				}
				s.client.wantNoSecrets(t, err, goodToken)
			})
		}
	}
}
