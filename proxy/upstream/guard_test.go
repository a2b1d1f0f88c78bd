package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// scene is a registry that may be hostile, its token service, and a server that
// is neither. The client has credentials.
type scene struct {
	registry, token, foreign *recorder
	client                   *fixture
}

// goodToken is the token that all servers of a scene issue, the foreign one too:
// a client that asks there for a token would succeed.
const goodToken = "good-token-51ab"

func giveToken(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, `{"token":%q}`, goodToken)
}

func giveManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	io.WriteString(w, "{}")
}

// challenging answers 401 with headers to requests without the token.
func challenging(headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+goodToken {
			giveManifest(w)
			return
		}
		for _, h := range headers {
			w.Header().Add("WWW-Authenticate", h)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// starter is newRecorder or newTLSRecorder.
type starter func(*testing.T, string, http.HandlerFunc) *recorder

func newScene(t *testing.T, registry, others starter) *scene {
	t.Helper()
	s := &scene{
		registry: registry(t, "127.0.0.1", http.NotFound),
		token:    others(t, "127.0.0.2", giveToken),
		foreign:  others(t, "127.0.0.3", giveToken),
	}
	s.client = newFixture(t, s.registry.URL, withCredentials, believing(t, s.registry, s.token, s.foreign), trusting(t, s.token.URL))
	return s
}

func (s *scene) bearer(realm string) string {
	return fmt.Sprintf(`Bearer realm=%q,service="s",scope="repository:%s:pull"`, realm, repo)
}

// check checks that the password was sent to the expected server only, and is in
// no text.
func (s *scene) check(t *testing.T, err error, place *recorder) {
	t.Helper()
	for name, w := range map[string]*recorder{"registry": s.registry, "token service": s.token, "foreign server": s.foreign} {
		if got := holdsCanary(w.all()); got != (w == place) {
			t.Errorf("the %s got the password: %t. All it got:\n%s", name, got, w.all())
		}
		if w != s.registry && strings.Contains(w.all(), goodToken) {
			t.Errorf("the %s got the token:\n%s", name, w.all())
		}
	}
	s.client.wantNoSecrets(t, err, goodToken)
}

// TestRealms: whatever a challenge says, the password is sent to the listed
// token service or not at all.
func TestRealms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		headers func(s *scene) []string
		sent    bool // the realm is right
	}{
		{"the listed one", func(s *scene) []string { return []string{s.bearer(s.token.URL + "/token?a=b")} }, true},
		{"the listed one in capitals", func(s *scene) []string {
			return []string{s.bearer(strings.Replace(s.token.URL, "http", "HTTP", 1) + "/TOKEN")}
		}, true},
		{"the listed one, after unknown schemes", func(s *scene) []string {
			return []string{"Negotiate", `Digest realm="x"`, s.bearer(s.token.URL)}
		}, true},
		{"the listed one, before another challenge", func(s *scene) []string {
			return []string{s.bearer(s.token.URL) + `, Digest realm="` + s.foreign.URL + `"`}
		}, true},
		{"another host", func(s *scene) []string { return []string{s.bearer(s.foreign.URL + "/token?secret=1")} }, false},
		{"another host, port of the listed one", func(s *scene) []string { return []string{s.bearer("http://127.0.0.3:" + s.token.port())} }, false},
		{"another port of the listed host", func(s *scene) []string { return []string{s.bearer("http://127.0.0.2:" + s.registry.port())} }, false},
		{"another port of the registry", func(s *scene) []string { return []string{s.bearer("http://127.0.0.1:" + s.token.port())} }, false},
		{"the standard port", func(*scene) []string { return []string{`Bearer realm="http://127.0.0.2/token"`} }, false},
		{"listed name before an at sign", func(s *scene) []string {
			return []string{s.bearer("http://127.0.0.2:" + s.token.port() + "@127.0.0.3:" + s.foreign.port() + "/")}
		}, false},
		{"userinfo", func(s *scene) []string {
			return []string{s.bearer("http://a:b@127.0.0.2:" + s.token.port() + "/token")}
		}, false},
		{"empty userinfo", func(s *scene) []string { return []string{s.bearer("http://@127.0.0.2:" + s.token.port() + "/token")} }, false},
		{"0.0.0.0", func(s *scene) []string { return []string{s.bearer("http://0.0.0.0:" + s.token.port())} }, false},
		{"decimal address", func(s *scene) []string { return []string{s.bearer("http://2130706434:" + s.token.port())} }, false},
		{"short address", func(s *scene) []string { return []string{s.bearer("http://127.2:" + s.token.port())} }, false},
		{"mapped address", func(s *scene) []string { return []string{s.bearer("http://[::ffff:127.0.0.2]:" + s.token.port())} }, false},
		{"IPv6 loopback", func(s *scene) []string { return []string{s.bearer("http://[::1]:" + s.token.port())} }, false},
		{"metadata service", func(*scene) []string { return []string{`Bearer realm="http://169.254.169.254/latest"`} }, false},
		{"localhost", func(s *scene) []string { return []string{s.bearer("http://localhost:" + s.foreign.port())} }, false},
		{"trailing dot", func(s *scene) []string { return []string{s.bearer("http://127.0.0.2.:" + s.token.port())} }, false},
		{"escaped host", func(s *scene) []string { return []string{s.bearer("http://127.0.0%2e2:" + s.token.port())} }, false},
		{"backslash", func(s *scene) []string {
			return []string{s.bearer(`http://127.0.0.2:` + s.token.port() + `\@127.0.0.3:` + s.foreign.port())}
		}, false},
		{"file", func(*scene) []string { return []string{`Bearer realm="file:///etc/passwd"`} }, false},
		{"ftp", func(s *scene) []string { return []string{s.bearer(strings.Replace(s.token.URL, "http", "ftp", 1))} }, false},
		{"no scheme", func(s *scene) []string { return []string{s.bearer("//127.0.0.2:" + s.token.port() + "/token")} }, false},
		{"path only", func(*scene) []string { return []string{`Bearer realm="/token"`} }, false},
		{"no address", func(*scene) []string { return []string{`Bearer realm="::"`} }, false},
		{"empty", func(*scene) []string { return []string{`Bearer realm=""`} }, false},
		{"no realm", func(*scene) []string { return []string{`Bearer service="s"`} }, false},
		{"two realms, right one first", func(s *scene) []string { return []string{s.bearer(s.token.URL) + `,realm="` + s.foreign.URL + `"`} }, false},
		{"two realms, right one last", func(s *scene) []string {
			return []string{`Bearer Realm="` + s.foreign.URL + `",realm="` + s.token.URL + `"`}
		}, false},
		{"quoted parts", func(s *scene) []string { return []string{`Bearer realm="http://127.0.0.\3:` + s.foreign.port() + `"`} }, false},
		{"8 KiB", func(s *scene) []string {
			return []string{s.bearer(s.token.URL+"/token") + `,x="` + strings.Repeat("x", maxChallenge) + `"`}
		}, false},
		{"50 foreign ones", func(s *scene) []string {
			var all []string
			for i := range 50 {
				all = append(all, s.bearer(s.foreign.URL+"/"+strconv.Itoa(i)))
			}
			return all
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.registry.answer = challenging(tt.headers(s)...)
			_, err := s.client.GetManifest(within(t), repo, "latest")
			if !tt.sent {
				wantKind(t, err, Denied) // by the registry's 401, with nothing tried
				s.check(t, err, nil)
				if s.foreign.count()+s.token.count() > 0 {
					t.Errorf("something was sent there:\n%s%s", s.foreign.all(), s.token.all())
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			s.check(t, err, s.token)
			if s.foreign.count() > 0 {
				t.Error("the foreign server was asked")
			}
		})
	}
}

// TestHugeHeader: an answer with headers above the bound is an error.
func TestHugeHeader(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = challenging(s.bearer(s.token.URL + "/" + strings.Repeat("x", 64<<10)))
	_, err := s.client.GetManifest(within(t), repo, "latest")
	wantKind(t, err, Unreachable)
	s.check(t, err, nil)
	if s.token.count() > 0 {
		t.Error("the token service was asked")
	}
}

// TestRefusedRealmIsSaid: the log names the token host to add, once, and each
// refusal is counted.
func TestRefusedRealmIsSaid(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = challenging(s.bearer("http://name:word@127.0.0.3:1/path?signature=1"))
	for range 3 {
		_, err := s.client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Denied)
		s.check(t, err, nil)
	}
	if got := s.client.Status().TokenHost; got.Host != "127.0.0.3:1" || got.At.IsZero() {
		t.Errorf("the status has %+v", got)
	}
	text := s.client.log.String()
	if strings.Count(text, "token_host=127.0.0.3:1\n") != 1 || !strings.Contains(text, "HUBCAP_UPSTREAM_<n>_TOKEN_HOSTS=127.0.0.3:1") {
		t.Errorf("the log says\n%s", text)
	}
	if n := s.client.refusals(t); n != 3 {
		t.Errorf("%d refusals counted, want 3", n)
	}
}

// TestRealmCase: host names are compared without case.
func TestRealmCase(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	listed := "http://localhost:" + s.token.port()
	s.client = newFixture(t, s.registry.URL, withCredentials, trusting(t, listed), reaching("127.0.0.0/8", "::1/128"))
	s.registry.answer = challenging(s.bearer("http://LocalHost:" + s.token.port() + "/token"))
	// The token service listens on 127.0.0.2, where localhost does not lead:
	// the realm passes, and the connection fails.
	_, err := s.client.GetManifest(within(t), repo, "latest")
	wantKind(t, err, Unreachable)
	s.check(t, err, nil)
	if s.client.refusals(t) != 0 {
		t.Error("the realm was refused")
	}
}

// TestRealmsOfTLS: a token service without TLS is not asked for a registry with
// TLS.
func TestRealmsOfTLS(t *testing.T) {
	t.Parallel()
	t.Run("https", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newTLSRecorder, newTLSRecorder)
		s.registry.answer = challenging(s.bearer(s.token.URL))
		_, err := s.client.GetManifest(within(t), repo, "latest")
		if err != nil {
			t.Error(err)
		}
		s.check(t, err, s.token)
	})
	t.Run("http at the listed host and port", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newTLSRecorder, newRecorder)
		s.registry.answer = challenging(s.bearer(s.token.URL))
		_, err := s.client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Denied)
		s.check(t, err, nil)
		if s.token.dialled() > 0 {
			t.Error("it was connected to")
		}
	})
	t.Run("certificate of an unknown authority", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newTLSRecorder, newTLSRecorder)
		s.registry.answer = challenging(s.bearer(s.token.URL))
		client := newFixture(t, s.registry.URL, withCredentials, trusting(t, s.token.URL))
		_, err := client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Unreachable)
		s.check(t, err, nil)
		if s.registry.count() > 0 {
			t.Error("a server without a trusted certificate was asked")
		}
	})
}

// TestTokenServiceRedirects: a token request with a password follows no
// redirect.
func TestTokenServiceRedirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.registry.answer = challenging(s.bearer(s.token.URL))
			s.token.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, s.foreign.URL+"/?signature=1", status)
			}
			_, err := s.client.GetManifest(within(t), repo, "latest")
			wantKind(t, err, Refused)
			s.check(t, err, s.token)
			if s.foreign.count() > 0 {
				t.Errorf("the redirect was followed:\n%s", s.foreign.all())
			}
			if n := s.client.refusals(t); n != 1 {
				t.Errorf("%d refusals counted, want 1", n)
			}
		})
	}
}

// TestTokenServiceRedirectsAnybody: a token request without credentials follows
// redirects within the token hosts, with an unchanged scope.
func TestTokenServiceRedirectsAnybody(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		to   func(s *scene, hops int) string
		hops int // at which a token is given; never when 0
	}{
		{"relative", func(*scene, int) string { return "/v2/token?service=s" }, 1},
		{"absolute", func(s *scene, _ int) string {
			return s.token.URL + "/token/?service=s&scope=repository:" + repo + ":pull"
		}, 1},
		{"to the registry", func(s *scene, _ int) string { return s.registry.URL + "/token" }, 1},
		{"to another repository's token", func(*scene, int) string { return "/token?scope=repository:victim/x:pull" }, 1},
		{"many", func(_ *scene, hops int) string { return "/" + strconv.Itoa(hops) }, maxRedirects},
		{"too many", func(_ *scene, hops int) string { return "/" + strconv.Itoa(hops) }, maxRedirects + 1},
		{"to a foreign host", func(s *scene, _ int) string { return s.foreign.URL }, 0},
		{"with a name in it", func(s *scene, _ int) string { return "http://a:b@127.0.0.2:" + s.token.port() }, 0},
		{"to another scheme", func(s *scene, _ int) string { return "ftp://127.0.0.2:" + s.token.port() }, 0},
		{"to itself", func(*scene, int) string { return "" }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL))
			var hops atomic.Int64
			var last atomic.Value // the last query
			s.token.answer = func(w http.ResponseWriter, r *http.Request) {
				last.Store(r.URL.Query())
				n := int(hops.Add(1)) - 1
				if tt.hops > 0 && n == tt.hops {
					giveToken(w, r)
					return
				}
				w.Header().Set("Location", tt.to(s, n))
				w.WriteHeader(http.StatusMovedPermanently)
			}
			challenge := challenging(s.bearer(s.token.URL + "/token"))
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					last.Store(r.URL.Query())
					giveToken(w, r)
					return
				}
				challenge(w, r)
			}
			_, err := s.client.GetManifest(within(t), repo, "latest")
			s.check(t, err, nil)
			if s.foreign.count() > 0 {
				t.Errorf("the foreign server was asked:\n%s", s.foreign.all())
			}
			if tt.hops == 0 || tt.hops > maxRedirects {
				wantKind(t, err, Refused)
				if n := s.client.refusals(t); n != 1 {
					t.Errorf("%d refusals counted, want 1", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if scopes := last.Load().(url.Values)["scope"]; len(scopes) != 1 || scopes[0] != "repository:"+repo+":pull" {
				t.Errorf("a token was requested with the scopes %q", scopes)
			}
		})
	}
}

// TestChallengesInAnyOrder: a Bearer challenge is met wherever it stands among
// those of other schemes, in one field or in several, with credentials and
// without.
func TestChallengesInAnyOrder(t *testing.T) {
	t.Parallel()
	others := []string{`Negotiate`, `Negotiate YIIabc==`, `NTLM`, `Digest realm="d", qop="auth", nonce="n"`, `Basic realm="b", charset="UTF-8"`}
	all := strings.Join(others, ", ")
	for name, fields := range map[string]func(bearer string) []string{
		"first":               func(b string) []string { return []string{b + ", " + all} },
		"last":                func(b string) []string { return []string{all + ", " + b} },
		"in the middle":       func(b string) []string { return []string{others[3] + "," + b + "," + others[4]} },
		"in the last field":   func(b string) []string { return append(slices.Clone(others), b) },
		"in the first one":    func(b string) []string { return append([]string{b}, others...) },
		"within a field":      func(b string) []string { return []string{others[0], others[4] + ", " + b, others[3]} },
		"behind a broken one": func(b string) []string { return []string{`Digest realm="d`, b} },
	} {
		for who, login := range map[string]change{"anonymous": func(*Options) {}, "the box": withCredentials} {
			t.Run(name+"/"+who, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, newRecorder, newRecorder)
				s.client = newFixture(t, s.registry.URL, trusting(t, s.token.URL), login)
				s.registry.answer = challenging(fields(s.bearer(s.token.URL))...)
				_, err := s.client.GetManifest(within(t), repo, "latest")
				if err != nil {
					t.Fatal(err)
				}
				s.check(t, err, map[string]*recorder{"the box": s.token}[who])
			})
		}
	}
}

// TestBasicIsTheLastChoice: the password is sent to a registry only if it puts
// no other challenge.
func TestBasicIsTheLastChoice(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = challenging(`Basic realm="b", `+s.bearer(s.foreign.URL), `Basic realm="b"`)
	_, err := s.client.GetManifest(within(t), repo, "latest")
	wantKind(t, err, Denied)
	s.check(t, err, nil)
	if s.foreign.count() > 0 {
		t.Error("the foreign server was asked")
	}
	s.registry.answer = challenging(s.bearer(s.foreign.URL), `Basic realm="b"`, s.bearer(s.token.URL))
	_, err = s.client.GetManifest(within(t), repo, "latest")
	if err != nil {
		t.Fatal(err)
	}
	s.check(t, err, s.token)
}

// TestTokenServiceChallenges: the challenge of a token service is not met.
func TestTokenServiceChallenges(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = challenging(s.bearer(s.token.URL))
	s.token.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", s.bearer(s.foreign.URL))
		w.WriteHeader(http.StatusUnauthorized)
	}
	_, err := s.client.GetManifest(within(t), repo, "latest")
	wantKind(t, err, Denied)
	s.check(t, err, s.token)
	if s.foreign.count() > 0 {
		t.Errorf("the foreign server was asked:\n%s", s.foreign.all())
	}
}

// TestRealmBehindAnotherSpelling: a registry redirects to itself under another
// spelling of its name and puts a challenge there; the token still comes from
// the token service.
func TestRealmBehindAnotherSpelling(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.client = newFixture(t, "http://localhost:"+s.registry.port(), withCredentials, trusting(t, s.token.URL))
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v2/moved/") {
			http.Redirect(w, r, "http://LOCALHOST:"+s.registry.port()+strings.Replace(r.URL.Path, repo, "moved/demo", 1), http.StatusTemporaryRedirect)
			return
		}
		challenging(s.bearer(s.token.URL))(w, r)
	}
	_, err := s.client.GetManifest(within(t), repo, "latest")
	if err != nil {
		t.Fatal(err)
	}
	s.check(t, err, s.token)
}

// TestScopeOfOthers: no part of a registry's challenge makes the client request
// a token for another repository.
func TestScopeOfOthers(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]func(s *scene) string{
		"scope": func(s *scene) string {
			return `Bearer realm="` + s.token.URL + `",scope="repository:victim/x:pull aws"`
		},
		"with a class": func(s *scene) string {
			return `Bearer realm="` + s.token.URL + `",scope="repository(plugin):victim/x:pull aws"`
		},
		"in the realm": func(s *scene) string {
			return `Bearer realm="` + s.token.URL + `?scope=repository:victim/x:pull&keep=1",scope="aws"`
		},
		"in the service": func(s *scene) string {
			return `Bearer realm="` + s.token.URL + `",service="s&scope=repository:victim/x:pull",scope="aws"`
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.registry.answer = challenging(header(s))
			var scopes []string
			s.token.answer = func(w http.ResponseWriter, r *http.Request) {
				scopes = r.URL.Query()["scope"]
				giveToken(w, r)
			}
			if _, err := s.client.GetManifest(within(t), repo, "latest"); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(scopes, " "); got != "aws repository:"+repo+":pull" {
				t.Errorf("a token was requested with scope %q", got)
			}
		})
	}
}

// TestBasic: the password is sent to the registry that asks for it, and to no
// other host.
func TestBasic(t *testing.T) {
	t.Parallel()
	basic := func(w http.ResponseWriter, r *http.Request, then http.HandlerFunc) {
		if _, password, _ := r.BasicAuth(); password == canary {
			then(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	manifest := func(w http.ResponseWriter, _ *http.Request) { giveManifest(w) }

	t.Run("registry", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.registry.answer = func(w http.ResponseWriter, r *http.Request) { basic(w, r, manifest) }
		for range 2 {
			_, err := s.client.GetManifest(within(t), repo, "latest")
			if err != nil {
				t.Fatal(err)
			}
			s.check(t, err, s.registry)
		}
		if n := s.registry.count(); n != 3 {
			t.Errorf("%d requests, want 3: a challenge, and two answers", n)
		}
		if s.client.Grants(repo) {
			t.Error("a password grants nothing")
		}
	})
	t.Run("anonymous", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.registry.answer = func(w http.ResponseWriter, r *http.Request) { basic(w, r, manifest) }
		client := newFixture(t, s.registry.URL)
		_, err := client.GetManifest(within(t), repo, "latest")
		if e := wantKind(t, err, Denied); e.Status != http.StatusUnauthorized {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.registry.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, err := s.client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Denied)
		s.check(t, err, s.registry)
		if n := s.registry.count(); n != 2 {
			t.Errorf("%d requests, want 2: accounts get locked", n)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
			basic(w, r, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, s.foreign.URL, http.StatusTemporaryRedirect)
			})
		}
		// The other host asks for it as well, and would give everything.
		s.foreign.answer = func(w http.ResponseWriter, r *http.Request) { basic(w, r, manifest) }
		for range 2 {
			_, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			wantKind(t, err, ServerError)
			s.check(t, err, s.registry)
		}
		if s.foreign.count() == 0 {
			t.Error("the redirect was not followed")
		}
	})
}

// TestChallengeBehindRedirect: the challenge of a host behind a redirect is
// ignored, even if that is one of the token hosts.
func TestChallengeBehindRedirect(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]func(s *scene) string{
		"bearer, listed":  func(s *scene) string { return s.bearer(s.token.URL) },
		"bearer, foreign": func(s *scene) string { return s.bearer(s.foreign.URL) },
		"basic":           func(*scene) string { return `Basic realm="x"` },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, s.foreign.URL, http.StatusTemporaryRedirect)
			}
			s.foreign.answer = challenging(header(s))
			_, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			wantKind(t, err, ServerError)
			s.check(t, err, nil)
			if s.foreign.count() != 1 || s.token.count() != 0 {
				t.Errorf("%d requests at the other host, %d at the token service, want 1 and 0", s.foreign.count(), s.token.count())
			}
		})
	}
}

// TestRedirects: a redirect is followed without the credentials of the previous
// request, a bounded number of times, and never from https to http.
func TestRedirects(t *testing.T) {
	t.Parallel()
	plain, encrypted := starter(newRecorder), starter(newTLSRecorder)
	tests := []struct {
		name             string
		registry, others starter
		location         func(s *scene) string
		kind             Kind
		followed         bool
		open             bool // no token is wanted
	}{
		{"another host", plain, plain, func(s *scene) string { return s.foreign.URL + "/x?signature=1" }, 0, true, false},
		{"another host, TLS", encrypted, encrypted, func(s *scene) string { return s.foreign.URL }, 0, true, false},
		{"http to https", plain, encrypted, func(s *scene) string { return s.foreign.URL }, 0, true, false},
		{"host only", plain, plain, func(s *scene) string { return "//127.0.0.3:" + s.foreign.port() + "/x" }, 0, true, false},
		{"https to http", encrypted, plain, func(s *scene) string { return s.foreign.URL + "/x?signature=1" }, Refused, false, true},
		{"userinfo", plain, plain, func(s *scene) string { return "http://a:b@127.0.0.3:" + s.foreign.port() + "/x" }, Refused, false, false},
		{"name only", plain, plain, func(s *scene) string { return "http://a@127.0.0.3:" + s.foreign.port() + "/x" }, Refused, false, false},
		{"file", plain, plain, func(*scene) string { return "file:///etc/passwd" }, Refused, false, false},
		{"ftp", plain, plain, func(s *scene) string { return "ftp://127.0.0.3:" + s.foreign.port() }, Refused, false, false},
		{"data", plain, plain, func(*scene) string { return "data:,x" }, Refused, false, false},
		{"loop", plain, plain, func(s *scene) string { return s.registry.URL + "/v2/" + repo + "/blobs/x" }, Refused, false, true},
		{"no address", plain, plain, func(s *scene) string { return "http://127.0.0.3:port/?signature=1" }, Unreachable, false, false},
		{"no address, odd query", plain, plain, func(*scene) string { return `http://127.0.0.3:port/?a=b'secret "secret secret` }, Unreachable, false, false},
		{"no location", plain, plain, func(*scene) string { return "" }, Invalid, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, tt.registry, tt.others)
			challenge := challenging(s.bearer(s.token.URL))
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				if !tt.open && r.Header.Get("Authorization") == "" {
					challenge(w, r)
					return
				}
				if location := tt.location(s); location != "" {
					w.Header().Set("Location", location)
				}
				w.WriteHeader(http.StatusTemporaryRedirect)
			}
			s.foreign.answer = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "bytes") }
			b, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			place := s.token
			if tt.open {
				place = nil
			}
			s.check(t, err, place)
			s.client.wantNoSecrets(t, err, "secret")
			if tt.followed {
				if got := readBlob(t, b, err); string(got) != "bytes" {
					t.Errorf("got %q", got)
				}
				if s.foreign.count() != 1 {
					t.Errorf("%d requests at the other host", s.foreign.count())
				}
				return
			}
			wantKind(t, err, tt.kind)
			if s.foreign.dialled() > 0 {
				t.Errorf("it was connected to:\n%s", s.foreign.all())
			}
			if want := map[Kind]int{Refused: 1}[tt.kind]; s.client.refusals(t) != want {
				t.Errorf("%d refusals counted, want %d", s.client.refusals(t), want)
			}
		})
	}
}

// TestRedirectHops: five redirects are followed, a sixth is not.
func TestRedirectHops(t *testing.T) {
	t.Parallel()
	for hops, ok := range map[int]bool{1: true, maxRedirects: true, maxRedirects + 1: false, 50: false} {
		t.Run(strconv.Itoa(hops), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			next := func(w http.ResponseWriter, r *http.Request) {
				n, _ := strconv.Atoi(r.URL.Query().Get("n"))
				if n == hops {
					io.WriteString(w, "bytes")
					return
				}
				// From host to host and back: each is another one.
				to := []*recorder{s.foreign, s.registry}[n%2]
				http.Redirect(w, r, fmt.Sprintf("%s/?n=%d", to.URL, n+1), http.StatusFound)
			}
			challenge := challenging(s.bearer(s.token.URL))
			s.foreign.answer = next
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" && r.Header.Get("Authorization") == "" {
					challenge(w, r)
					return
				}
				next(w, r)
			}
			b, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			s.check(t, err, s.token)
			if n := strings.Count(s.registry.all(), goodToken); n != 1 {
				t.Errorf("the token was shown %d times, want once: it is gone after the first redirect", n)
			}
			if ok {
				readBlob(t, b, err)
				return
			}
			wantKind(t, err, Refused)
			if n := s.foreign.count() + s.registry.count(); n != 2+maxRedirects {
				t.Errorf("%d requests, want %d", n, 2+maxRedirects)
			}
		})
	}
}

// TestRedirectStalls: the body of a redirect is read, so that the connection can
// be used again, but not for longer than the stall time-out.
func TestRedirectStalls(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.client = newFixture(t, s.registry.URL, withStallTimeout(2*time.Second))
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", s.foreign.URL)
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusTemporaryRedirect)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	s.foreign.answer = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "bytes") }
	b, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
	if got := readBlob(t, b, err); string(got) != "bytes" {
		t.Errorf("got %q", got)
	}
}

// TestRedirectKeepsConnection: redirects do not cost a connection each.
func TestRedirectKeepsConnection(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.foreign.URL, http.StatusTemporaryRedirect) // writes a line of HTML
	}
	for range 5 {
		b, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
		readBlob(t, b, err)
	}
	if s.registry.dialled() != 1 || s.foreign.dialled() != 1 {
		t.Errorf("%d connections to the registry, %d to the CDN, want 1 each", s.registry.dialled(), s.foreign.dialled())
	}
}

// TestTLSSessionIsResumed: a further connection to a host resumes its TLS
// session, which saves most of the handshake.
func TestTLSSessionIsResumed(t *testing.T) {
	t.Parallel()
	s := newScene(t, newTLSRecorder, newRecorder)
	var resumed []bool
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "x")
	}
	for range 2 {
		b, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
		readBlob(t, b, err)
	}
	if !slices.Equal(resumed, []bool{false, true}) || s.registry.dialled() != 2 {
		t.Errorf("resumed: %v in %d connections, want the second of 2", resumed, s.registry.dialled())
	}
}

func TestTokenHost(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, scheme, want string }{
		{"auth.example", "https", "auth.example:443"},
		{"auth.example", "http", "auth.example:80"},
		{"Auth.Example:5000", "https", "auth.example:5000"},
		{"10.0.0.1", "https", "10.0.0.1:443"},
		{"[::1]:5000", "https", "[::1]:5000"},
		{"", "https", ""},
		{"auth.example:", "https", ""},
		{"auth.example/token", "https", ""},
		{"auth.example?x", "https", ""},
		{"auth.example#x", "https", ""},
		{"user@auth.example", "https", ""},
		{"https://auth.example", "https", ""},
		{"auth.example:port", "https", ""},
	}
	for _, tt := range tests {
		if got, err := TokenHost(tt.in, tt.scheme); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

// TestForeignChallengeIsHidden: the challenge of another host is dropped.
func TestForeignChallengeIsHidden(t *testing.T) {
	t.Parallel()
	g := guarding("auth.example:443")
	g.base = roundTrip(func(req *http.Request) (*http.Response, error) {
		h := http.Header{"Www-Authenticate": {`Bearer realm="https://auth.example/token"`, `Basic realm="x"`}}
		return &http.Response{StatusCode: http.StatusUnauthorized, Header: h, Body: http.NoBody, Request: req}, nil
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://cdn.example/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Values("WWW-Authenticate"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestCheckRedirect tests the rules alone, without those of net/http.
func TestCheckRedirect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		registry, to, method string
		via                  int
		ok                   bool
	}{
		{"https://r.example", "https://cdn.example/", "GET", 1, true},
		{"https://r.example", "https://r.example/", "HEAD", maxRedirects, true},
		{"http://r.example", "http://cdn.example/", "GET", 1, true},
		{"http://r.example", "https://cdn.example/", "GET", 1, true},
		{"https://r.example", "https://cdn.example/", "GET", maxRedirects + 1, false},
		{"https://r.example", "http://cdn.example/", "GET", 1, false},
		{"https://r.example", "http://r.example/", "GET", 1, false},
		{"http://r.example", "ftp://cdn.example/", "GET", 1, false},
		{"https://r.example", "file:///etc/passwd", "GET", 1, false},
		{"https://r.example", "https://a:b@r.example/", "GET", 1, false},
		{"https://r.example", "https://@r.example/", "GET", 1, false},
		{"https://r.example", "https://r.example/", "POST", 1, false},
	}
	for _, tt := range tests {
		c := guarding()
		var err error
		if c.URL, err = url.Parse(tt.registry); err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.to, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Authorization", "Cookie", "Referer", "Range"} {
			req.Header.Set(name, "x")
		}
		via := make([]*http.Request, tt.via)
		for i := range via {
			via[i] = &http.Request{URL: c.URL.JoinPath("v2/x/manifests/1")}
		}
		err = c.checkRedirect(req, via)
		if errors.Is(err, http.ErrUseLastResponse) {
			t.Errorf("%s from %s: is left to the client", tt.to, tt.registry)
		}
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s %s from %s, after %d: got %v, want it followed: %t", tt.method, tt.to, tt.registry, tt.via, err, tt.ok)
		}
		if err == nil && (len(req.Header) != 1 || req.Header.Get("Range") == "") {
			t.Errorf("%s: goes with %v, want the range alone", tt.to, req.Header)
		}
	}
}

// TestCredentialsStayHome: the last check before the network stops credentials
// for another host.
func TestCredentialsStayHome(t *testing.T) {
	t.Parallel()
	c := guarding("registry.example:443", "auth.example:443")
	network := &answering{}
	c.base = network
	for address, refused := range map[string]bool{
		"https://registry.example/v2/x":      false,
		"https://Registry.Example:443/v2/x":  false,
		"http://registry.example/v2/x":       true,
		"https://registry.example:444/v2/x":  true,
		"https://evil.example/v2/x":          true,
		"https://auth.example/token":         true, // only by askToken, which checks the realm
		"https://registry.example.evil/v2/x": true,
	} {
		network.other = nil
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(boxUser, canary)
		_, err = c.RoundTrip(req)
		if errors.Is(err, errRefused) != refused || (network.other == nil) != refused {
			t.Errorf("%s: got %v, want a refusal: %t", address, err, refused)
		}
	}
}

// TestRegistryThatIsNotItself: a server without a trusted certificate for its
// name is sent nothing.
func TestRegistryThatIsNotItself(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		certificate tls.Certificate
		version     uint16 // the latest that it speaks
		trusted     bool
		answered    bool
	}{
		"valid":           {certificate: loopbackCertificate(), trusted: true, answered: true},
		"self-signed":     {certificate: loopbackCertificate()},
		"expired":         {certificate: certificate(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), trusted: true},
		"not valid yet":   {certificate: certificate(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), trusted: true},
		"of another host": {certificate: certificate(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 9)} }), trusted: true},
		"TLS 1.1":         {certificate: loopbackCertificate(), version: tls.VersionTLS11, trusted: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := unstarted(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") })
			w.TLS = &tls.Config{Certificates: []tls.Certificate{tc.certificate}, MinVersion: tls.VersionTLS10, MaxVersion: tc.version}
			w.StartTLS()
			changes := []change{withCredentials}
			if tc.trusted {
				changes = append(changes, believing(t, w))
			}
			b, err := newFixture(t, w.URL, changes...).OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			if tc.answered {
				readBlob(t, b, err)
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Kind != Unreachable || w.count() != 0 {
				t.Errorf("%v, after %d requests", err, w.count())
			}
		})
	}
}
