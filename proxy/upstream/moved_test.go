package upstream

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/metrics"
	"hubcap/proxy/upstream/credentials"
)

// harbor has a registry redirect requests for the repository demo, as Harbor
// does where a project is left out, and serve others for which opens returns
// true.
func harbor(s *scene, to func(r *http.Request) string, opens func(*http.Request) bool, challenge func() string) {
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/demo/"):
			w.Header().Set("Location", to(r))
			w.WriteHeader(http.StatusMovedPermanently)
		case !opens(r):
			w.Header().Set("WWW-Authenticate", challenge())
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			fmt.Fprint(w, "bytes")
		case strings.Contains(r.URL.Path, "/tags/"):
			fmt.Fprint(w, `{"tags":["a"]}`)
		default:
			giveManifest(w)
		}
	}
}

// TestMovedWithinARegistry: a redirect of a registry to itself is followed with
// credentials, and with a token for the repository that it names.
func TestMovedWithinARegistry(t *testing.T) {
	t.Parallel()
	asks := map[string]func(t *testing.T, c *fixture) error{
		"manifest": func(t *testing.T, c *fixture) error { _, err := c.GetManifest(within(t), "demo", "latest"); return err },
		"HEAD of a manifest": func(t *testing.T, c *fixture) error {
			_, err := c.HeadManifest(within(t), "demo", "latest")
			return err
		},
		"blob": func(t *testing.T, c *fixture) error {
			b, err := c.OpenBlob(within(t), "demo", digest.FromString("bytes"), 0, -1)
			if err == nil && string(readBlob(t, b, nil)) != "bytes" {
				t.Error("other bytes")
			}
			return err
		},
		"tags": func(t *testing.T, c *fixture) error { _, err := c.Tags(within(t), "demo"); return err },
	}
	moved := func(r *http.Request) string {
		return strings.Replace(r.URL.RequestURI(), "/v2/demo/", "/v2/library/demo/", 1)
	}
	for where, to := range map[string]func(s *scene) func(r *http.Request) string{
		"relative": func(*scene) func(r *http.Request) string { return moved },
		"absolute": func(s *scene) func(r *http.Request) string {
			return func(r *http.Request) string { return s.registry.URL + moved(r) }
		},
	} {
		for what, ask := range asks {
			for who, login := range map[string]change{"anonymous": func(*Options) {}, "the box": withCredentials} {
				t.Run(fmt.Sprintf("%s/%s/Bearer/%s", where, what, who), func(t *testing.T) {
					t.Parallel()
					s := newScene(t, newRecorder, newRecorder)
					s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), login)
					var mu sync.Mutex
					var scopes []string
					s.token.answer = func(w http.ResponseWriter, r *http.Request) {
						mu.Lock()
						defer mu.Unlock()
						scopes = append(scopes, r.URL.Query()["scope"]...)
						giveToken(w, r)
					}
					harbor(s, to(s), func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+goodToken }, func() string { return s.bearer(s.token.URL) })
					err := ask(t, s.client)
					if err != nil {
						t.Fatal(err)
					}
					s.check(t, err, map[string]*recorder{"the box": s.token}[who])
					if len(scopes) != 1 || scopes[0] != "repository:library/demo:pull" {
						t.Errorf("tokens were requested with the scopes %q", scopes)
					}
				})
			}
			t.Run(fmt.Sprintf("%s/%s/Basic", where, what), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, newRecorder, newRecorder)
				harbor(s, to(s), func(r *http.Request) bool { _, password, _ := r.BasicAuth(); return password == canary }, func() string { return `Basic realm="x"` })
				for range 2 {
					err := ask(t, s.client)
					if err != nil {
						t.Fatal(err)
					}
					s.check(t, err, s.registry)
				}
			})
		}
	}
}

// TestMovedBehindAChallenge: a registry that wants a token before it redirects
// gets one for each of the two repositories.
func TestMovedBehindAChallenge(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
	hub.Image("demo", "latest", fakehub.RandomBlob(2, 10))
	layer := image.Layers[0].Digest
	hub.Script(func(r *fakehub.Request) *fakehub.Fault {
		if r.Repo == "demo" && r.Authorization != "" {
			return &fakehub.Fault{Status: 308, Header: http.Header{"Location": {strings.Replace(r.Path, "/demo/", "/"+repo+"/", 1)}}}
		}
		return nil
	})
	for range 2 {
		m, err := client.GetManifest(within(t), "demo", "latest")
		if err != nil || m.Digest != image.Manifest.Digest {
			t.Fatalf("got %v, %v", m.Digest, err)
		}
		b, err := client.OpenBlob(within(t), "demo", layer, 10, 20)
		if got := readBlob(t, b, err); len(got) != 20 || b.Off != 10 {
			t.Errorf("%d bytes from %d", len(got), b.Off)
		}
	}
	if n := tokenRequests(hub); n != 2 {
		t.Errorf("%d token requests for two names, want 2", n)
	}
	if n := hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("the CDN was shown %d tokens", n)
	}
}

// TestMovedForACaller: a caller's own token is sent again within the registry.
func TestMovedForACaller(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	harbor(s, func(r *http.Request) string { return strings.Replace(r.URL.Path, "/v2/demo/", "/v2/library/demo/", 1) },
		func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+goodToken }, func() string { return s.bearer(s.token.URL) })
	if _, err := s.client.As(goodToken).GetManifest(within(t), "demo", "latest"); err != nil {
		t.Error(err)
	}
	_, err := s.client.As("").GetManifest(within(t), "demo", "latest")
	if e := wantKind(t, err, Denied); !strings.Contains(e.Challenge, `scope="repository:library/demo:pull"`) {
		t.Errorf("is challenged with %q", e.Challenge)
	}
}

// TestMovedNoFurther: an authorization is sent to no other host, and a redirect
// to what is no repository's name causes no token request.
func TestMovedNoFurther(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		to   func(s *scene) string
		kind Kind
	}{
		{"another host", func(s *scene) string { return s.foreign.URL + "/v2/library/demo/manifests/latest" }, ServerError},
		{"another port", func(s *scene) string {
			return "http://127.0.0.1:" + s.foreign.port() + "/v2/library/demo/manifests/latest"
		}, ServerError},
		{"another scheme", func(s *scene) string {
			return "https://127.0.0.1:" + s.registry.port() + "/v2/library/demo/manifests/latest"
		}, Unreachable},
		{"with a name in it", func(s *scene) string {
			return "http://a:b@127.0.0.1:" + s.registry.port() + "/v2/library/demo/manifests/latest"
		}, Refused},
		{"two scopes for a name", func(*scene) string { return "/v2/x:pull%20repository:victim/x/manifests/latest" }, Denied},
		{"to itself", func(*scene) string { return "" }, Refused},
		{"signed", func(*scene) string { return "/storage/demo?signature=1" }, Denied},
		{"back from another host", func(s *scene) string { return s.foreign.URL + "/back" }, Denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, func(t *testing.T, ip string, answer http.HandlerFunc) *recorder {
				if ip == "127.0.0.3" {
					ip = "127.0.0.1" // another port of the registry's host
				}
				return newRecorder(t, ip, answer)
			})
			s.foreign.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/back" {
					http.Redirect(w, r, s.registry.URL+"/v2/victim/manifests/latest", http.StatusFound)
					return
				}
				w.Header().Set("WWW-Authenticate", s.bearer(s.token.URL))
				w.WriteHeader(http.StatusUnauthorized)
			}
			var scopes sync.Map
			s.token.answer = func(w http.ResponseWriter, r *http.Request) {
				for _, scope := range r.URL.Query()["scope"] {
					scopes.Store(scope, true)
				}
				giveToken(w, r)
			}
			harbor(s, func(r *http.Request) string {
				if to := tt.to(s); to != "" {
					return to
				}
				return r.URL.Path
			}, func(*http.Request) bool { return false }, func() string { return s.bearer(s.token.URL) })
			_, err := s.client.GetManifest(within(t), "demo", "latest")
			wantKind(t, err, tt.kind)
			if holdsCanary(s.foreign.all()) || strings.Contains(s.foreign.all(), goodToken) {
				t.Errorf("the foreign server got:\n%s", s.foreign.all())
			}
			s.client.wantNoSecrets(t, err, goodToken)
			scopes.Range(func(scope, _ any) bool {
				if scope != "repository:demo:pull" {
					t.Errorf("a token was requested with the scope %q", scope)
				}
				return true
			})
		})
	}
}

func TestRepositoryOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v2/library/demo/manifests/latest": "library/demo", "/v2/demo/blobs/sha256:x": "demo", "/v2/a/tags/list": "a", "/v2/a/referrers/x": "a",
		"/v2/manifests/manifests/latest": "manifests",
		"/v2/":                           "", "/v2/demo": "", "/demo/manifests/x": "", "/v2/manifests/x": "",
		"/v2/A/manifests/x": "", "/v2/a b/manifests/x": "", "/v2/a:pull/manifests/x": "", "/v2/a/../b/manifests/x": "", "/v2//a/manifests/x": "",
	} {
		if name, ok := repositoryOf(path, "/"); ok != (want != "") || ok && name != want {
			t.Errorf("%s: got %q, %t, want %q", path, name, ok, want)
		}
	}
}

func TestWithinRegistry(t *testing.T) {
	t.Parallel()
	registry := &url.URL{Scheme: "https", Host: "r.example", Path: "/base"}
	for to, want := range map[string]bool{
		"https://r.example/base/v2/a/manifests/x":         true,
		"https://R.example:443/base/v2/a/manifests/x?n=1": true,
		"https://r.example/storage/x":                     true,
		"https://r.example/storage/x?signature=1":         false,
		"http://r.example/base/v2/a/manifests/x":          false,
		"https://r.example:444/base/v2/a/manifests/x":     false,
		"https://cdn.example/base/v2/a/manifests/x":       false,
	} {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		if got := withinRegistry(registry, u); got != want {
			t.Errorf("%s: got %t, want %t", to, got, want)
		}
	}
}

// TestMovedPastTheRules: a registry redirects from a repository that may be
// pulled to one that may not, or not with the box's credentials. Allow and Deny
// hold for every identity; where credentials are not for the target, it is
// requested without.
func TestMovedPastTheRules(t *testing.T) {
	t.Parallel()
	const anonymous, own, relay = "anonymous", "own", "relay"
	for name, tt := range map[string]struct {
		rules   Rules
		refused bool // the redirect
	}{
		"no rules":                   {Rules{Visibility: Shared, SharedRepositories: []string{"**"}}, false},
		"the target is denied":       {Rules{Visibility: Shared, SharedRepositories: []string{"**"}, Deny: []string{"library/*"}}, true},
		"the target is not allowed":  {Rules{Visibility: Shared, SharedRepositories: []string{"**"}, Allow: []string{"demo"}}, true},
		"the target is not shared":   {Rules{Visibility: Shared, SharedRepositories: []string{"demo"}}, false},
		"public content alone":       {Rules{Visibility: Public}, false},
		"the target is both allowed": {Rules{Visibility: Shared, SharedRepositories: []string{"library/demo"}, Allow: []string{"*", "library/**"}}, false},
	} {
		for _, who := range []string{anonymous, own, relay} {
			for _, back := range []bool{false, true} { // by another host, which net/http follows
				t.Run(fmt.Sprintf("%s/%s/%t", name, who, back), func(t *testing.T) {
					t.Parallel()
					s := newScene(t, newRecorder, newRecorder)
					m := metrics.New()
					e := Entry{Host: "registry.test", Rules: tt.rules}
					s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), withCredentials, func(o *Options) {
						o.Metrics = m.Upstreams
						e.Options = *o
					})
					u := e.build()
					u.Relay = newClient(func() Options { o := e.Options; o.Login, o.upstream = credentials.Login{}, u; return o }(), identityClient)
					moved := strings.Replace("/v2/demo/manifests/latest", "/demo/", "/library/demo/", 1)
					s.foreign.answer = func(w http.ResponseWriter, r *http.Request) {
						http.Redirect(w, r, s.registry.URL+moved, http.StatusFound)
					}
					reached := new(atomic.Int32)
					s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
						switch {
						case r.URL.Path == moved:
							reached.Add(1)
							giveManifest(w)
						case back:
							http.Redirect(w, r, s.foreign.URL+"/x", http.StatusFound)
						default:
							http.Redirect(w, r, moved, http.StatusMovedPermanently)
						}
					}
					c := map[string]*Client{anonymous: u.Anonymous, own: u.Own, relay: u.Relay.As(goodToken)}[who]
					_, err := c.GetManifest(within(t), "demo", "latest")
					if tt.refused {
						wantKind(t, err, Refused)
					} else if err != nil {
						t.Error(err)
					}
					if got := reached.Load() > 0; got == tt.refused {
						t.Errorf("the target was reached: %t", got)
					}
					if n, _ := m.Value("hubcap_upstream_blocked_requests_total"); (n > 0) != tt.refused {
						t.Errorf("%v refusals are counted", n)
					}
				})
			}
		}
	}
}

// TestMovedWithoutCredentials: the box's credentials are for the repository that
// was requested, and not for the one that the registry redirects to.
func TestMovedWithoutCredentials(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]Rules{
		"not shared": {Visibility: Shared, SharedRepositories: []string{"demo"}},
		"public":     {Visibility: Public},
		"shared":     {Visibility: Shared, SharedRepositories: []string{"demo", "library/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			e := Entry{Host: "registry.test", Rules: rules}
			s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), withCredentials, func(o *Options) { e.Options = *o })
			harbor(s, func(*http.Request) string { return "/v2/library/demo/manifests/latest" },
				func(r *http.Request) bool { _, password, _ := r.BasicAuth(); return password == canary }, func() string { return `Basic realm="x"` })
			_, err := e.build().Own.GetManifest(within(t), "demo", "latest")
			if shared := name == "shared"; shared != (err == nil) || shared != holdsCanary(s.registry.all()) {
				t.Errorf("got %v; the registry was shown:\n%s", err, s.registry.all())
			}
		})
	}
}
