package upstream

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
	"hubcap/proxy/upstream/credentials"
)

func put(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// dockerConfig writes the config.json of the test's environment.
func dockerConfig(t *testing.T, content string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	put(t, filepath.Join(dir, "config.json"), content, 0o600)
}

func from(kind credentials.Kind) change {
	return func(o *Options) { o.Login = credentials.Login{Kind: kind} }
}

// kinds are credentials of every kind that a registry on loopback, at host, can
// have. The password of each is the canary.
var kinds = map[string]struct {
	login func(t *testing.T, host string) credentials.Login
	basic bool // Basic authentication can be met with it
}{
	"user and password": {func(*testing.T, string) credentials.Login {
		return credentials.Login{Username: boxUser, Password: canary}
	}, true},
	"password in a file": {func(t *testing.T, _ string) credentials.Login {
		return credentials.Login{Username: boxUser, Password: "old", PasswordFile: put(t, filepath.Join(t.TempDir(), "p"), canary+"\n", 0o600)}
	}, true},
	"token without a user": {func(*testing.T, string) credentials.Login { return credentials.Login{Token: canary} }, false},
	"config.json": {func(t *testing.T, host string) credentials.Login {
		dockerConfig(t, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(boxUser+":"+canary))))
		return credentials.Login{Kind: credentials.DockerConfig}
	}, true},
	"identity token in config.json": {func(t *testing.T, host string) credentials.Login {
		dockerConfig(t, fmt.Sprintf(`{"auths":{%q:{"identitytoken":%q}}}`, host, canary))
		return credentials.Login{Kind: credentials.DockerConfig}
	}, false},
	"helper program": {func(t *testing.T, host string) credentials.Login {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "docker-credential-canary"), fmt.Sprintf("#!/bin/sh\necho '{\"Username\":%q,\"Secret\":%q}'\n", boxUser, canary), 0o700)
		t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
		dockerConfig(t, fmt.Sprintf(`{"credHelpers":{%q:"canary"}}`, host))
		return credentials.Login{Kind: credentials.DockerConfig}
	}, true},
}

// TestEveryKindStaysHome: credentials of every kind are sent to the registry and
// its token service, and to no other host.
func TestEveryKindStaysHome(t *testing.T) {
	for kind, k := range kinds {
		for name, tc := range map[string]struct {
			realm func(s *scene) string
			place func(s *scene) *recorder
		}{
			"listed token service": {func(s *scene) string { return s.bearer(s.token.URL) }, func(s *scene) *recorder { return s.token }},
			"foreign one":          {func(s *scene) string { return s.bearer(s.foreign.URL) }, nil},
			"another port":         {func(s *scene) string { return s.bearer("http://127.0.0.1:" + s.token.port()) }, nil},
			"Basic":                {func(*scene) string { return `Basic realm="x"` }, func(s *scene) *recorder { return s.registry }},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				s := newScene(t, newRecorder, newRecorder)
				u, err := url.Parse(s.registry.URL)
				if err != nil {
					t.Fatal(err)
				}
				s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), func(o *Options) { o.Login = k.login(t, u.Host) })
				s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.Header.Get("Authorization"), "Basic") && strings.Contains(r.URL.Path, "blobs") {
						http.Redirect(w, r, s.foreign.URL, http.StatusTemporaryRedirect)
						return
					}
					challenging(tc.realm(s))(w, r)
				}
				_, err = s.client.GetManifest(within(t), repo, "latest")
				_, blobErr := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
				var place *recorder
				if tc.place != nil && (k.basic || name != "Basic") {
					place = tc.place(s)
				}
				s.check(t, err, place)
				s.check(t, blobErr, place)
				if name == "listed token service" && err != nil {
					t.Error(err)
				}
				s.client.wantNoSecretMetrics(t)
			})
		}
	}
}

// wantNoSecretMetrics checks that no metric holds the password.
func (f *fixture) wantNoSecretMetrics(t *testing.T) {
	t.Helper()
	w := httptest.NewRecorder()
	f.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if holdsCanary(w.Body.String()) {
		t.Error("the password stands in the metrics")
	}
}

// TestCloudsStayHome pulls by the real names of the clouds' registries, through
// a proxy on loopback, with the clouds' token services on loopback too.
func TestCloudsStayHome(t *testing.T) {
	cloud := newRecorder(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Target") == "" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, canary)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d}]}`,
			base64.StdEncoding.EncodeToString([]byte("AWS:"+canary)), time.Now().Add(12*time.Hour).Unix())
	})
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": cloud.URL, "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "GOOGLE_APPLICATION_CREDENTIALS": serviceAccount(t, cloud.URL),
	} {
		t.Setenv(name, value)
	}
	for name, tc := range map[string]struct {
		kind credentials.Kind
		host string
	}{
		"ecr":    {credentials.ECR, "123456789012.dkr.ecr.eu-west-1.amazonaws.com"},
		"google": {credentials.Google, "europe-docker.pkg.dev"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := newRecorder(t, "127.0.0.3", func(w http.ResponseWriter, r *http.Request) {
				_, password, _ := r.BasicAuth()
				switch {
				case r.Host != tc.host:
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
				case password != canary && strings.Contains(r.URL.Path, "other"):
					w.Header().Set("WWW-Authenticate", `Bearer realm="http://token.evil.example/token"`)
					w.WriteHeader(http.StatusUnauthorized)
				case password != canary:
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
				case strings.Contains(r.URL.Path, "blobs"):
					http.Redirect(w, r, "http://cdn.evil.example/blob", http.StatusTemporaryRedirect)
				default:
					giveManifest(w)
				}
			})
			proxy := newProxy(t, registry.Listener.Addr())
			client := newFixture(t, "http://"+tc.host, through(t, proxy.Server, "127.0.0.2"), reaching(), from(tc.kind))
			_, err := client.GetManifest(within(t), repo, "latest")
			if err != nil {
				t.Error(err)
			}
			_, blobErr := client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			wantKind(t, blobErr, ServerError)
			_, otherErr := client.GetManifest(within(t), "other/repository", "latest")
			for _, err := range []error{err, blobErr, otherErr} {
				client.wantNoSecrets(t, err)
			}
			client.wantNoSecretMetrics(t)
			seen := 0
			for _, request := range registry.requests {
				home := strings.Contains(request, "Host: "+tc.host+"\r\n")
				if holdsCanary(request) {
					seen++
					if !home {
						t.Errorf("sent to a stranger:\n%s", request)
					}
				}
			}
			if seen == 0 || !strings.Contains(registry.all(), "Host: cdn.evil.example") {
				t.Errorf("the registry has seen the password %d times; all:\n%s", seen, registry.all())
			}
		})
	}
	if n := cloud.count(); n != 2 {
		t.Errorf("%d questions, want one of each cloud", n)
	}
}

func serviceAccount(t *testing.T, at string) string {
	t.Helper()
	content, err := testkit.ServiceAccount(at)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, filepath.Join(t.TempDir(), "key.json"), content, 0o600)
}

// useless returns how often failed credentials are counted.
func (f *fixture) useless(why metrics.CredentialFailure) int {
	n, _ := f.metrics.Value("hubcap_upstream_credential_failures_total", "reason", why.String())
	return int(n)
}

// withStandIn makes a client, and the anonymous one that takes its place when
// its credentials fail.
func withStandIn(t *testing.T, at string, changes ...change) *fixture {
	t.Helper()
	f := newFixture(t, at, changes...)
	f.login.anonymous = newFixture(t, at, append(changes, func(o *Options) { o.Login = credentials.Login{} })...).Client
	return f
}

// TestUselessCredentials: public content is pulled without credentials that
// fail.
func TestUselessCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		login func(t *testing.T) change
		why   metrics.CredentialFailure
		tries int // of a wrong password
	}{
		"wrong password": {func(*testing.T) change {
			return func(o *Options) { o.Username, o.Password = boxUser, "wrong-"+canary }
		}, metrics.Refused, 1},
		"nothing in config.json": {func(t *testing.T) change {
			dockerConfig(t, "{}")
			return from(credentials.DockerConfig)
		}, metrics.Unavailable, 0},
		"helper that fails": {func(t *testing.T) change {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "docker-credential-broken"), "#!/bin/sh\necho "+canary+"\nexit 1\n", 0o700)
			t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			dockerConfig(t, `{"credsStore":"broken"}`)
			return from(credentials.DockerConfig)
		}, metrics.Unavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: "another"}})
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Image("owner/private", "latest", fakehub.RandomBlob(2, 10))
			hub.SetPrivate("owner/private", boxUser)
			client := withStandIn(t, hub.RegistryURL(), trusting(t, hub.TokenURL()), tc.login(t))
			for range 3 {
				if err := client.head(within(t)); err != nil {
					t.Error(err)
				}
			}
			_, err := client.HeadManifest(within(t), "owner/private", "latest")
			if e := wantKind(t, err, Denied); !e.Credentials {
				t.Error("the refusal counts as anonymous, and so as an answer about the content")
			}
			client.wantNoSecrets(t, err, secretsOf(hub)...)
			client.wantNoSecretMetrics(t)
			wrong := 0
			for _, r := range hub.Log() {
				if strings.HasPrefix(r.Authorization, "Basic") {
					wrong++
				}
			}
			if n := client.useless(tc.why); n != 4 || wrong != tc.tries {
				t.Errorf("%d requests counted, want 4; the password was tried %d times, want %d", n, wrong, tc.tries)
			}
			if n := strings.Count(client.log.String(), "registry credentials fail"); n != 1 || !strings.Contains(client.log.String(), "do=") {
				t.Errorf("said %d times:\n%s", n, client.log)
			}
		})
	}
}

// TestUselessCredentialsWithoutPulls: the anonymous client that takes the place
// of failed credentials has a pull limit of its own, and sends nothing once it
// is reached.
func TestUselessCredentialsWithoutPulls(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: "another"}, RateLimit: 1, Clock: clock.Now})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	client := withStandIn(t, hub.RegistryURL(), trusting(t, hub.TokenURL()), withCredentials, goesBy(clock))
	get := func() error {
		_, err := client.GetManifest(within(t), repo, "latest")
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if e := wantKind(t, get(), RateLimited); e.RetryAfter != 6*time.Hour {
			t.Errorf("the refusal asks for %s", e.RetryAfter)
		}
	}
	if n := hub.Count(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodGet), fakehub.OfStatus(429)); n != 1 {
		t.Errorf("%d pulls were refused, want 1", n)
	}
	if err := client.head(within(t)); err != nil {
		t.Errorf("HEAD: %v", err)
	}
	hub.ResetRateLimit()
	clock.Advance(probeAfter)
	if err := get(); err != nil {
		t.Errorf("there are pulls again: %v", err)
	}
}

// TestForbiddenRepository: valid credentials may give access to less than none
// do.
func TestForbiddenRepository(t *testing.T) {
	t.Parallel()
	for name, public := range map[string]bool{"public": true, "private": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := newRecorder(t, "127.0.0.1", nil)
			registry.answer = func(w http.ResponseWriter, r *http.Request) {
				switch authorization := r.Header.Get("Authorization"); {
				case authorization == "Bearer of-box":
					w.WriteHeader(http.StatusForbidden)
				case public && authorization == "Bearer of-anonymous":
					giveManifest(w)
				case r.URL.Path == "/token" && authorization != "":
					io.WriteString(w, `{"token":"of-box"}`)
				case r.URL.Path == "/token":
					io.WriteString(w, `{"token":"of-anonymous"}`)
				default:
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, registry.URL))
					w.WriteHeader(http.StatusUnauthorized)
				}
			}
			client := withStandIn(t, registry.URL, withCredentials)
			_, err := client.GetManifest(within(t), repo, "latest")
			if public && err != nil {
				t.Error(err)
			}
			if !public {
				if e := wantKind(t, err, Denied); e.Status != http.StatusForbidden {
					t.Errorf("got %v, want the answer to the credentials", err)
				}
			}
			if n := client.useless(metrics.Forbidden); n != 1 {
				t.Errorf("counted %d times, want once", n)
			}
			client.wantNoSecrets(t, err, "of-box", "of-anonymous")
		})
	}
}

// TestTroubleIsNotTheCredentials: a failing registry does not count as a refusal
// of the credentials.
func TestTroubleIsNotTheCredentials(t *testing.T) {
	t.Parallel()
	registry := newRecorder(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	client := withStandIn(t, registry.URL, withCredentials)
	wantKind(t, client.head(within(t)), RateLimited)
	if n := registry.count(); n != 1 {
		t.Errorf("%d requests, want 1: the anonymous limit holds too", n)
	}
}

// TestParts: one registry, different credentials for parts of it.
func TestParts(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{"a": "pa", "b": "pb", "rest": "pr"}})
	for repository, user := range map[string]string{"team-a/app": "a", "team-b/deep/app": "b", "other/app": "rest"} {
		hub.Image(repository, "latest", fakehub.RandomBlob(1, 10))
		hub.SetPrivate(repository, user)
	}
	at, err := url.Parse(hub.RegistryURL())
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{Host: "registry.test", Parts: []Part{
		{[]string{"team-a/*"}, credentials.Login{Username: "a", Password: "pa"}},
		{[]string{"team-b/**", "team-a/*"}, credentials.Login{Username: "b", Password: "pb"}},
	}}
	f := newFixture(t, hub.RegistryURL(), trusting(t, hub.TokenURL()), func(o *Options) {
		o.URL = at
		o.Login = credentials.Login{Username: "rest", Password: "pr"}
		e.Options = *o
	})
	set, err := NewSet([]Entry{e}, "registry.test")
	if err != nil {
		t.Fatal(err)
	}
	for repository, want := range map[string]string{"team-a/app": "a", "team-b/deep/app": "b", "other/app": "rest"} {
		if _, err := set.Default().OwnOf(repository).HeadManifest(within(t), repository, "latest"); err != nil {
			t.Errorf("%s as %s: %v", repository, want, err)
		}
	}
	e.Login = credentials.Login{}
	if set, err = NewSet([]Entry{e}, "registry.test"); err != nil || set.Default().OwnOf("other/app") != nil || set.Default().OwnOf("team-a/app") == nil {
		t.Errorf("credentials for a part are for the rest too, or for nothing: %v", err)
	}
	f.wantNoSecrets(t, nil, secretsOf(hub)...)
}
