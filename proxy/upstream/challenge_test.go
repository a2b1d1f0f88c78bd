package upstream

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/metrics"
)

// realChallenges are what public registries send.
var realChallenges = []struct {
	name, header string
	want         challenge
}{
	{"Docker Hub", `Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`,
		challenge{"bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull"}},
	{"Docker Hub, old token", `Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull",error="invalid_token"`,
		challenge{"bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull"}},
	{"ghcr.io", `Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"`,
		challenge{"bearer", "https://ghcr.io/token", "ghcr.io", "repository:user/image:pull"}},
	{"quay.io", `Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:prometheus/prometheus:pull"`,
		challenge{"bearer", "https://quay.io/v2/auth", "quay.io", "repository:prometheus/prometheus:pull"}},
	{"registry.gitlab.com", `Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:gitlab-org/x:pull"`,
		challenge{"bearer", "https://gitlab.com/jwt/auth", "container_registry", "repository:gitlab-org/x:pull"}},
	{"public.ecr.aws", `Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"`,
		challenge{"bearer", "https://public.ecr.aws/token/", "public.ecr.aws", "aws"}},
	{"nvcr.io", `Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull"`,
		challenge{"bearer", "https://nvcr.io/proxy_auth", "", "repository:nvidia/cuda:pull"}},
	{"nvcr.io, old token", `Bearer realm="https://authn.nvidia.com/token?service=registry",scope="repository:nvidia/cuda:pull"`,
		challenge{"bearer", "https://authn.nvidia.com/token?service=registry", "", "repository:nvidia/cuda:pull"}},
	{"docker.elastic.co", `Bearer realm="https://docker-auth.elastic.co/auth",service="token-service",scope="repository:kibana/kibana:pull"`,
		challenge{"bearer", "https://docker-auth.elastic.co/auth", "token-service", "repository:kibana/kibana:pull"}},
	{"gcr.io", `Bearer realm="https://gcr.io/v2/token",service="gcr.io",scope="repository:distroless/static:pull"`,
		challenge{"bearer", "https://gcr.io/v2/token", "gcr.io", "repository:distroless/static:pull"}},
	{"ECR", `Basic realm="https://123456789012.dkr.ecr.eu-central-1.amazonaws.com/",service="ecr.amazonaws.com"`, challenge{scheme: "basic"}},
	{"Nexus", `BASIC realm="Sonatype Nexus Repository Manager"`, challenge{scheme: "basic"}},
}

func TestParseChallenge(t *testing.T) {
	t.Parallel()
	for _, tt := range realChallenges {
		if got := parseChallenges(tt.header); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	good, basic := challenge{scheme: "bearer", realm: "r"}, challenge{scheme: "basic"}
	tests := []struct {
		name, header string
		want         []challenge
	}{
		{"token for a value", `Bearer realm=r`, []challenge{good}},
		{"case", `bEARER REALM="r"`, []challenge{good}},
		{"spaces", "  Bearer  realm \t=\t \"r\" , ", []challenge{good}},
		{"empty list elements", `Bearer ,, realm="r",,`, []challenge{good}},
		{"unknown parameter", `Bearer x="1",realm="r"`, []challenge{good}},
		{"escaped quote", `Bearer realm="r\"s"`, []challenge{{scheme: "bearer", realm: `r"s`}}},
		{"comma in quotes", `Bearer realm="r,service=s"`, []challenge{{scheme: "bearer", realm: "r,service=s"}}},
		{"a second challenge", `Bearer realm="r", Basic realm="b"`, []challenge{good, basic}},
		{"a second bearer challenge", `Bearer realm="r", Bearer realm="s"`, []challenge{good, {scheme: "bearer", realm: "s"}}},
		{"ends badly", `Bearer realm="r",service="s`, []challenge{good}},
		{"basic first", `Basic realm="b", Bearer realm="r"`, []challenge{basic, good}},
		{"basic without a realm", `Basic`, []challenge{basic}},
		{"basic without a realm first", `Basic, Bearer realm="r"`, []challenge{basic, good}},
		{"negotiate first", `Negotiate, Bearer realm="r"`, []challenge{good}},
		{"negotiate with a token first", `Negotiate YII+/a==, Bearer realm="r"`, []challenge{good}},
		{"digest first", `Digest realm="d, Bearer realm=x", qop="auth,auth-int", nonce=n, Bearer realm="r"`, []challenge{good}},
		{"all before it", `Negotiate, NTLM, Digest realm="d", realm="e", Basic realm="b", charset="UTF-8", Bearer realm="r",service="s"`,
			[]challenge{basic, {scheme: "bearer", realm: "r", service: "s"}}},
		{"parameters of another one", `Digest service="x", Bearer realm="r"`, []challenge{good}},

		{"empty", ``, nil},
		{"spaces only", "  \t", nil},
		{"unknown scheme", `Digest realm="r"`, nil},
		{"scheme that begins like one", `Bearerx realm="r"`, nil},
		{"no space", "Bearer\trealm=r", nil},
		{"no realm", `Bearer service="s"`, nil},
		{"a comma in place of the space", `Bearer, realm="r"`, nil},
		{"empty realm", `Bearer realm=""`, nil},
		{"two realms", `Bearer realm="r",realm="r"`, nil},
		{"two realms and another one", `Bearer realm="r",realm="r", Bearer realm="s"`, nil},
		{"two services", `Bearer realm="r",service="a",Service="b"`, nil},
		{"token68", `Bearer abc==`, nil},
		{"unended realm", `Bearer realm="r`, nil},
		{"bearer in an unended quote", `Digest realm="d, Bearer realm=r`, nil},
		{"ends in a backslash", `Bearer realm="r\`, nil},
		{"control character", "Bearer realm=\"r\x00\"", nil},
		{"line break", "Bearer realm=\"r\r\nX: y\"", nil},
		{"no value", `Bearer realm=`, nil},
		{"too long", `Bearer realm="r"` + strings.Repeat(" ", maxChallenge), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := parseChallenges(tt.header); !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// guarding is the guard of a registry at https://registry.example and its token
// services, with no network behind it.
func guarding(tokenHosts ...string) *guard {
	return &guard{
		Options: Options{
			URL: &url.URL{Scheme: "https", Host: "registry.example"}, TokenHosts: tokenHosts,
			Log: slog.New(slog.DiscardHandler), Now: time.Now,
		},
		metrics: metrics.New().Upstreams.Of("registry.example", "credentials"),
	}
}

func TestChooseRealChallenges(t *testing.T) {
	t.Parallel()
	for _, tt := range realChallenges {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.want.scheme == schemeBasic {
				if got := guarding().choose([]string{tt.header}, true); got != tt.want {
					t.Errorf("got %+v", got)
				}
				if got := guarding().choose([]string{tt.header}, false); got != (challenge{}) {
					t.Errorf("without credentials: got %+v", got)
				}
				return
			}
			u, err := url.Parse(tt.want.realm)
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			want.scope = foreignScopes(want.scope)
			if got := guarding(u.Host+":443").choose([]string{tt.header}, true); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if got := guarding().choose([]string{tt.header}, true); got != (challenge{}) {
				t.Errorf("without the token host on the list: got %+v", got)
			}
		})
	}
}

var errSeen = errors.New("seen")

// answering is a network that answers the registry's requests with one header
// and remembers the first request that it did not expect.
type answering struct {
	header string
	other  *http.Request
}

func (a *answering) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.String() == "https://registry.example/v2/" && req.Header.Get("Authorization") == "" {
		return &http.Response{
			StatusCode: http.StatusUnauthorized, Request: req, Body: http.NoBody,
			Header: http.Header{"Www-Authenticate": {a.header}},
		}, nil
	}
	a.other = req
	return nil, errSeen
}

// encoded returns a challenge in the syntax of RFC 9110, whatever characters its
// values have.
func encoded(ch challenge) string {
	if ch.scheme == "basic" {
		return ch.scheme
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return fmt.Sprintf(`%s service="%s" , scope="%s",realm="%s"`, ch.scheme, quoted.Replace(ch.service), quoted.Replace(ch.scope), quoted.Replace(ch.realm))
}

// FuzzChallenge: what was parsed is parsed to the same again once encoded. What
// is chosen is Basic, or a Bearer challenge of a listed token host whose scope
// names no repository.
func FuzzChallenge(f *testing.F) {
	for _, tt := range realChallenges {
		f.Add(tt.header)
	}
	for _, s := range []string{
		`Bearer realm="https://evil.example/token"`,
		`Bearer realm="https://auth.docker.io@evil.example/token"`,
		`Bearer realm="https://auth.docker.io:443\@evil.example/"`,
		`Bearer realm="https://auth.docker.io/",realm="https://evil.example/"`,
		`Bearer realm="https://registry.example/\",realm=\"https://evil.example/"`,
		`Bearer realm="https://auth.docker.io/token",service="\",realm=\"https://evil.example",scope="\",x"`,
		"Negotiate\nBearer realm=\"https://auth.docker.io/token\"\nBasic",
		"Bearer realm=\"https://auth.docker.io/\x80\xff\",service=\"\xc3\xa4\"",
	} {
		f.Add(s)
	}
	g := guarding("registry.example:443", "auth.docker.io:443")
	f.Fuzz(func(t *testing.T, text string) {
		headers := strings.Split(text, "\n") // one header line each
		for _, h := range headers {
			for _, ch := range parseChallenges(h) {
				if ch.scheme != "basic" && (ch.scheme != "bearer" || ch.realm == "") {
					t.Errorf("%q is %+v", h, ch)
				}
				if again := parseChallenges(encoded(ch)); len(encoded(ch)) <= maxChallenge && (len(again) != 1 || again[0] != ch) {
					t.Errorf("%q is %+v, and written anew %q: %+v", h, ch, encoded(ch), again)
				}
			}
		}
		ch := g.choose(headers, true)
		if ch == (challenge{}) || ch == (challenge{scheme: schemeBasic}) {
			return
		}
		if ch.scheme != schemeBearer || ch.service != printable(ch.service) || ch.scope != printable(ch.scope) {
			t.Fatalf("%q: chose %+v", headers, ch)
		}
		if slices.ContainsFunc(strings.Fields(ch.scope), func(s string) bool { return strings.HasPrefix(s, "repository") }) {
			t.Errorf("%q asks for scope %q", headers, ch.scope)
		}
		at, err := url.Parse(ch.realm)
		if err != nil || at.Scheme != "https" || at.User != nil || at.Port() != "" && at.Port() != "443" ||
			!strings.EqualFold(at.Hostname(), "registry.example") && !strings.EqualFold(at.Hostname(), "auth.docker.io") {
			t.Fatalf("%q leads to %q", headers, ch.realm)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"-9223372036854775808":          0,
		"21600":                         6 * time.Hour,
		"21601":                         6 * time.Hour,
		"9223372036854775807":           6 * time.Hour,
		"9223372036854775808":           0, // no number, no date
		"1.5":                           0,
		"soon":                          0,
		"Mon, 02 Jan 2006 15:04:05 GMT": 0, // over
		"Fri, 31 Dec 9999 23:59:59 GMT": 6 * time.Hour,
	} {
		h := http.Header{}
		h.Set("Retry-After", value)
		if got := retryAfter(h, time.Now()); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	soon := time.Now().Add(time.Hour)
	h := http.Header{"Retry-After": {soon.UTC().Format(http.TimeFormat)}}
	if got := retryAfter(h, time.Now()); got <= 0 || got > time.Hour {
		t.Errorf("in an hour: got %v", got)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                 "",
		"no query here":                    "no query here",
		`Get "https://a/b?c=d&e=f": EOF`:   `Get "https://a/b?…": EOF`,
		`"a?b'c d" and "e?f\"g" too`:       `"a?…" and "e?…" too`,
		"without quotes a?b and what more": "without quotes a?…",
		`ends badly "a?b\`:                 `ends badly "a?…\`,
	} {
		if got := redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]Kind{
		401: Denied, 403: Denied, 404: NotFound, 410: NotFound, 402: Withdrawn, 412: Withdrawn, 451: Withdrawn, 429: RateLimited, 500: ServerError, 503: ServerError, 599: ServerError,
		400: Invalid, 405: Invalid, 416: Invalid, 204: Invalid, 304: Invalid,
	} {
		if got := kindOf(status); got != want {
			t.Errorf("%d: got %v, want %v", status, got, want)
		}
	}
	seen := map[string]bool{}
	for k := Unreachable; k <= Unasked; k++ {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("kind %d is called %q", k, k)
		}
		seen[k.String()] = true
	}
}

// TestErrorText: the text names the registry, the request and the reason.
func TestErrorText(t *testing.T) {
	t.Parallel()
	e := &Error{Kind: ServerError, Upstream: "ghcr.io", Request: "GET /v2/x", Status: 503, err: io.ErrUnexpectedEOF}
	if got, want := e.Error(), "upstream ghcr.io: GET /v2/x: server error (status 503): unexpected EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
}
