package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

func newClock() *testkit.Clock { return testkit.NewClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) }

func goesBy(c *testkit.Clock) change { return func(o *Options) { o.Now = c.Now } }

// newTimedHub starts a hub and its client, both with the test's clock.
func newTimedHub(t *testing.T, options fakehub.Options, changes ...change) (*fakehub.Hub, *fixture, *testkit.Clock) {
	t.Helper()
	c := newClock()
	options.Clock = c.Now
	hub, client := newHub(t, options, append(changes, goesBy(c))...)
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	return hub, client, c
}

// head requests the only manifest there is.
func (f *fixture) head(ctx context.Context) error {
	_, err := f.HeadManifest(ctx, repo, "latest")
	return err
}

// wantTokenRequests checks how many token requests n parallel requests cause.
func wantTokenRequests(t *testing.T, hub *fakehub.Hub, client *fixture, parallel, want int) {
	t.Helper()
	before := tokenRequests(hub)
	if err := together(parallel, func(int) error { return client.head(within(t)) }); err != nil {
		t.Fatal(err)
	}
	if n := tokenRequests(hub) - before; n != want {
		t.Errorf("%d token requests of %d parallel requests, want %d", n, parallel, want)
	}
}

func TestTokenIsShared(t *testing.T) {
	t.Parallel()
	for name, opaque := range map[string]bool{"jwt": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, client, clock := newTimedHub(t, fakehub.Options{TokenTTL: 300 * time.Second, OpaqueTokens: opaque})
			wantTokenRequests(t, hub, client, 32, 1) // cold
			wantTokenRequests(t, hub, client, 32, 0) // warm
			clock.Advance(300*time.Second - tokenMargin - time.Second)
			wantTokenRequests(t, hub, client, 32, 0) // not quite expired
			clock.Advance(time.Second)
			wantTokenRequests(t, hub, client, 32, 1) // given up before its end
			clock.Advance(24 * time.Hour)
			wantTokenRequests(t, hub, client, 32, 1)
			hub.RevokeTokens()
			wantTokenRequests(t, hub, client, 32, 1)
			wantTokenRequests(t, hub, client, 1, 0)
			if got, _ := client.metrics.Value("hubcap_upstream_token_requests_total"); got != 4 {
				t.Errorf("%v token requests counted, want 4", got)
			}
		})
	}
}

// TestTokenForEachRepository: a token for one repository is not sent for
// another.
func TestTokenForEachRepository(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	for i := range 8 {
		hub.Image(fmt.Sprintf("library/demo%d", i), "latest", fakehub.RandomBlob(1, 10))
	}
	err := together(64, func(i int) error {
		_, err := client.HeadManifest(within(t), fmt.Sprintf("library/demo%d", i%8), "latest")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := tokenRequests(hub); n != 8 {
		t.Errorf("%d token requests for 8 repositories", n)
	}
	for _, r := range hub.Log() {
		if r.Kind == fakehub.KindToken && strings.Count(r.Query, "scope=") != 1 {
			t.Errorf("a token was requested with %q", r.Query)
		}
	}
}

// TestTokensOfIdentities: clients of different identities share no tokens.
func TestTokensOfIdentities(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: canary}})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.SetPrivate(repo, boxUser)
	own := newFixture(t, hub.RegistryURL(), trusting(t, hub.TokenURL()), withCredentials)
	anonymous := newFixture(t, hub.RegistryURL(), trusting(t, hub.TokenURL()))
	if !own.Credentials() || anonymous.Credentials() {
		t.Error("the clients have wrong identities")
	}
	for range 2 {
		if err := own.head(within(t)); err != nil {
			t.Fatal(err)
		}
		wantKind(t, anonymous.head(within(t)), Denied)
	}
	if !own.Grants(repo) || anonymous.Grants(repo) {
		t.Errorf("grants: own %t, anonymous %t", own.Grants(repo), anonymous.Grants(repo))
	}
	for _, r := range hub.Log() {
		if holdsCanary(r.Authorization) && r.Role != fakehub.RoleToken {
			t.Errorf("the password went to the %s", r.Role)
		}
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Users: map[string]string{boxUser: "another"}}, withCredentials)
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	err := client.head(within(t))
	wantKind(t, err, Denied)
	client.wantNoSecrets(t, err, secretsOf(hub)...)
	if n := tokenRequests(hub); n != 1 {
		t.Errorf("%d tries with a wrong password, want 1: accounts get locked", n)
	}
}

// TestExpiresIn: a stated life of tokens is used within bounds, so that it costs
// neither a token for each request nor lasts too long.
func TestExpiresIn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, field string
		life        time.Duration
	}{
		{"absent", ``, 50 * time.Second},
		{"null", `,"expires_in":null`, 50 * time.Second},
		{"zero", `,"expires_in":0`, 50 * time.Second},
		{"negative", `,"expires_in":-1`, 50 * time.Second},
		{"very negative", `,"expires_in":-1e300`, 50 * time.Second},
		{"short", `,"expires_in":5`, 50 * time.Second},
		{"usual", `,"expires_in":300`, 290 * time.Second},
		{"fraction", `,"expires_in":300.5`, 290*time.Second + 500*time.Millisecond},
		{"text", `,"expires_in":"300"`, 290 * time.Second},
		{"long", `,"expires_in":1e12`, time.Hour - 10*time.Second},
		{"written out", `,"expires_in":1000000000000`, time.Hour - 10*time.Second},
		{"empty", `,"expires_in":""`, 50 * time.Second},
		{"words", `,"expires_in":"soon"`, 50 * time.Second},
		{"no number", `,"expires_in":"NaN"`, 50 * time.Second},
		{"true", `,"expires_in":true`, 50 * time.Second},
		{"no float", `,"expires_in":1e999`, 50 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client, clock := newTimedHub(t, fakehub.Options{TokenTTL: 1000 * time.Hour})
			body := fmt.Sprintf(`{"token":%q%s}`, hub.Token("", repo), tt.field)
			hub.Script(fakehub.Always(&fakehub.Fault{Body: []byte(body)}, fakehub.OfKind(fakehub.KindToken)))
			wantTokenRequests(t, hub, client, 1, 1)
			clock.Advance(tt.life - time.Millisecond)
			wantTokenRequests(t, hub, client, 1, 0)
			clock.Advance(time.Millisecond)
			wantTokenRequests(t, hub, client, 8, 1)
		})
	}
}

// TestExpiresTooLate: a token that is refused before its stated end is replaced
// by another.
func TestExpiresTooLate(t *testing.T) {
	t.Parallel()
	hub, client, clock := newTimedHub(t, fakehub.Options{TokenTTL: 5 * time.Second})
	wantTokenRequests(t, hub, client, 1, 1)
	clock.Advance(6 * time.Second)
	wantTokenRequests(t, hub, client, 32, 1)
}

// TestFirstRequesterLeaves: a shared token request goes on when the one that
// started it is cancelled.
func TestFirstRequesterLeaves(t *testing.T) {
	t.Parallel()
	hub, client, _ := newTimedHub(t, fakehub.Options{})
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hub.Script(func(r *fakehub.Request) *fakehub.Fault {
		if r.Kind == fakehub.KindToken {
			once.Do(func() { close(asked) })
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancelCause(within(t))
	gone := errors.New("the client has gone away")
	first := make(chan error, 1)
	go func() { first <- client.head(ctx) }()
	<-asked
	others := make(chan error, 1)
	go func() { others <- together(31, func(int) error { return client.head(within(t)) }) }()
	cancel(gone)
	if err := <-first; !errors.Is(err, gone) {
		t.Errorf("the first one got %v, want its own end", err)
	}
	close(release)
	if err := <-others; err != nil {
		t.Error(err)
	}
	if n := tokenRequests(hub); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// TestBadToken: a token answer that is too long, no JSON, or without a token
// that fits in a header is an error.
func TestBadToken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault fakehub.Fault
	}{
		{"10 MB", fakehub.Fault{Body: []byte(`{"token":"` + strings.Repeat("a", 10<<20) + `"}`)}},
		{"10 MB behind a good token", fakehub.Fault{Body: []byte(`{"token":"a"}` + strings.Repeat(" ", 10<<20))}},
		{"endless", fakehub.Fault{Endless: true}},
		{"web page", fakehub.Fault{HTML: true}},
		{"empty", fakehub.Fault{Body: []byte{}}},
		{"no token", fakehub.Fault{Body: []byte(`{}`)}},
		{"null", fakehub.Fault{Body: []byte(`null`)}},
		{"number", fakehub.Fault{Body: []byte(`{"token":7}`)}},
		{"CRLF", fakehub.Fault{Body: []byte(`{"token":"a\r\nX-Evil: 1"}`)}},
		{"LF in the other field", fakehub.Fault{Body: []byte(`{"token":"a","access_token":"a\nX-Evil: 1"}`)}},
		{"space", fakehub.Fault{Body: []byte(`{"token":"a b"}`)}},
		{"NUL", fakehub.Fault{Body: []byte(`{"token":"a\u0000"}`)}},
		{"not ASCII", fakehub.Fault{Body: []byte(`{"token":"ä"}`)}},
		{"two documents", fakehub.Fault{Body: []byte(`{"token":"a"}{"token":"b"}`)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client, _ := newTimedHub(t, fakehub.Options{Users: map[string]string{boxUser: canary}}, withCredentials)
			hub.Script(fakehub.Always(&tt.fault, fakehub.OfKind(fakehub.KindToken)))
			err := client.head(within(t))
			wantKind(t, err, Invalid)
			client.wantNoSecrets(t, err, secretsOf(hub)...)
			if n := tokenRequests(hub); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			for _, r := range hub.Log() {
				if r.Role == fakehub.RoleRegistry && r.Authorization != "" {
					t.Errorf("%q was sent", r.Authorization)
				}
			}
			// What was refused is not kept.
			hub.Script(nil)
			wantTokenRequests(t, hub, client, 4, 1)
		})
	}
}

// TestTokenServiceFails maps the refusals of a token service. Only 401 and 403
// are about the repository.
func TestTokenServiceFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status, requests int
		kind             Kind
	}{
		{http.StatusBadRequest, 1, Invalid},
		{http.StatusUnauthorized, 1, Denied},
		{http.StatusForbidden, 1, Denied},
		{http.StatusNotFound, 1, ServerError},
		{http.StatusTooManyRequests, 1, RateLimited},
		{http.StatusInternalServerError, 3, ServerError},
		{http.StatusServiceUnavailable, 3, ServerError},
	}
	for _, tt := range tests {
		t.Run(http.StatusText(tt.status), func(t *testing.T) {
			t.Parallel()
			hub, client, _ := newTimedHub(t, fakehub.Options{Users: map[string]string{boxUser: canary}}, withCredentials)
			hub.Script(fakehub.Always(&fakehub.Fault{Status: tt.status, Body: []byte(`{"errors":[{"code":"X","message":"` + canary + `"}]}`)},
				fakehub.OfKind(fakehub.KindToken)))
			err := client.head(within(t))
			if e := wantKind(t, err, tt.kind); e.Status != tt.status {
				t.Errorf("got status %d, want %d", e.Status, tt.status)
			}
			client.wantNoSecrets(t, err, secretsOf(hub)...)
			if n := tokenRequests(hub); n != tt.requests {
				t.Errorf("%d token requests, want %d", n, tt.requests)
			}
		})
	}
}

// TestTokenServiceStalls: a token answer that never ends does not hold up the
// requests of its repository, which share one fetch, for ever.
func TestTokenServiceStalls(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*fakehub.Fault{
		"in a token":   {StallAt: fakehub.At(5)},
		"in a refusal": {Status: http.StatusForbidden, Body: []byte(`{"errors":[]}`), StallAt: fakehub.At(5)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, client, _ := newTimedHub(t, fakehub.Options{}, withStallTimeout(2*time.Second))
			hub.Script(fakehub.Once(fault, fakehub.OfKind(fakehub.KindToken)))
			err := client.head(within(t))
			if e := (*Error)(nil); !errors.As(err, &e) {
				t.Fatalf("got %v, want an Error", err)
			}
			if err := client.head(within(t)); err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	tokens := newTokens(time.Now)
	for i := range tokensKept + 100 {
		fetch := func(context.Context) (authorization, error) { return authorization{"Bearer t", time.Minute}, nil }
		if _, err := tokens.get(t.Context(), fmt.Sprintf("repo%d", i), "", fetch); err != nil {
			t.Fatal(err)
		}
	}
	if n := tokens.cache.Len(); n != tokensKept {
		t.Errorf("%d tokens are kept, want %d", n, tokensKept)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	jwt := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	tests := []struct {
		name, token string
		want        bool
	}{
		{"pull", jwt(`{"access":[{"type":"repository","name":"a/b","actions":["pull"]}]}`), true},
		{"pull among others", jwt(`{"access":[{"type":"x"},{"type":"repository","name":"a/b","actions":["push","pull"]}]}`), true},
		{"another repository", jwt(`{"access":[{"type":"repository","name":"a/c","actions":["pull"]}]}`), false},
		{"a longer name", jwt(`{"access":[{"type":"repository","name":"a/b/c","actions":["pull"]}]}`), false},
		{"push only", jwt(`{"access":[{"type":"repository","name":"a/b","actions":["push"]}]}`), false},
		{"no actions", jwt(`{"access":[{"type":"repository","name":"a/b","actions":[]}]}`), false},
		{"another type", jwt(`{"access":[{"type":"registry","name":"a/b","actions":["pull"]}]}`), false},
		{"empty access", jwt(`{"access":[]}`), false},
		{"no access", jwt(`{}`), false},
		{"access of another kind", jwt(`{"access":"a/b"}`), false},
		{"no JSON", jwt(`<html>`), false},
		{"no base64", "e30.!!.c2ln", false},
		{"opaque", "3f7a9c", false},
		{"two parts", "e30.e30", false},
		{"four parts", jwt(`{"access":[{"type":"repository","name":"a/b","actions":["pull"]}]}`) + ".x", false},
		{"empty", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clock := newClock()
			tokens := newTokens(clock.Now)
			tokens.cache.Put("a/b", "Bearer "+tt.token, time.Minute)
			if got := tokens.grants("a/b"); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
			if tokens.grants("a/c") {
				t.Error("a repository without a token is granted")
			}
			clock.Advance(time.Minute)
			if tokens.grants("a/b") {
				t.Error("an expired token grants")
			}
		})
	}
}

// TestGrantsOfHub: Docker Hub gives a token for any repository; its access claim
// says whether that may be pulled.
func TestGrantsOfHub(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ private, opaque, want bool }{
		"public": {want: true}, "private": {private: true}, "opaque": {opaque: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, client, _ := newTimedHub(t, fakehub.Options{OpaqueTokens: tt.opaque})
			if tt.private {
				hub.SetPrivate(repo)
			}
			if err := client.head(within(t)); (err != nil) != tt.private {
				t.Fatal(err)
			}
			if got := client.Grants(repo); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

// TestOldTokenChallengedElsewhere: some registries name another token service to
// a request with an old token than to one without.
func TestOldTokenChallengedElsewhere(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	var valid atomic.Value
	valid.Store("first")
	s.token.answer = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"token":%q}`, valid.Load()) }
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		switch got := r.Header.Get("Authorization"); got {
		case "Bearer " + valid.Load().(string):
			giveManifest(w)
			return
		case "":
			w.Header().Set("WWW-Authenticate", s.bearer(s.token.URL))
		default:
			w.Header().Set("WWW-Authenticate", s.bearer(s.foreign.URL))
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
	for _, token := range []string{"first", "second"} {
		valid.Store(token)
		_, err := s.client.GetManifest(within(t), repo, "latest")
		if err != nil {
			t.Errorf("%s token: %v", token, err)
		}
		s.check(t, err, s.token)
	}
	if s.foreign.count() > 0 || s.token.count() != 2 {
		t.Errorf("%d requests at the other service, %d token requests, want 0 and 2", s.foreign.count(), s.token.count())
	}
}

// TestOldTokenIsTriedOnce: a token that was just refused is not sent again, even
// if the challenge has a scope of its own.
func TestOldTokenIsTriedOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	s.registry.answer = challenging(`Bearer realm="` + s.token.URL + `",scope="aws"`)
	s.client.tokens.cache.Put(repo, "Bearer old", time.Hour)
	if _, err := s.client.GetManifest(within(t), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	if n := s.registry.count(); n != 2 {
		t.Errorf("%d requests, want 2: with the old token, and with the new one", n)
	}
}

// TestForbiddenToken: after a 403, which has no challenge, the next request uses
// a new token.
func TestForbiddenToken(t *testing.T) {
	t.Parallel()
	hub, client, _ := newTimedHub(t, fakehub.Options{})
	wantTokenRequests(t, hub, client, 1, 1)
	hub.Script(fakehub.Once(&fakehub.Fault{Status: http.StatusForbidden}, fakehub.OfKind(fakehub.KindManifest)))
	wantKind(t, client.head(within(t)), Denied)
	wantTokenRequests(t, hub, client, 8, 1)
}

// TestKnownChallengeIsNotWaitedFor: once a registry has put a challenge,
// requests for further repositories bring a token at once. If it then puts
// another challenge, or none, that costs a round trip and no failure.
func TestKnownChallengeIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	const other = "library/other"
	refusing := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
	for _, tc := range []struct {
		name    string
		then    func(s *scene) // what changes after the first repository
		want    int            // requests at the registry for the second one
		dropped bool           // the known challenge
	}{
		{"nothing changes", func(*scene) {}, 1, false},
		{"another service", func(s *scene) {
			s.registry.answer = challenging(strings.Replace(s.bearer(s.token.URL), `"s"`, `"t"`, 1))
			s.token.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("service") == "t" {
					giveToken(w, r)
					return
				}
				io.WriteString(w, `{"token":"for-another"}`)
			}
		}, 3, false},
		{"no tokens wanted, and none given", func(s *scene) {
			s.registry.answer = func(w http.ResponseWriter, _ *http.Request) { giveManifest(w) }
			s.token.answer = refusing
		}, 1, true},
		{"a foreign service", func(s *scene) {
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", s.bearer(s.foreign.URL))
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, 2, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, newRecorder, newRecorder)
			s.registry.answer = challenging(s.bearer(s.token.URL))
			if _, err := s.client.GetManifest(within(t), repo, "latest"); err != nil {
				t.Fatal(err)
			}
			before := s.registry.count()
			tc.then(s)
			_, err := s.client.GetManifest(within(t), other, "latest")
			if (err != nil) != (tc.name == "a foreign service") {
				t.Errorf("%v", err)
			}
			if n := s.registry.count() - before; n != tc.want {
				t.Errorf("%d requests at the registry, want %d", n, tc.want)
			}
			if dropped := s.client.tokens.lastChallenge() == (challenge{}); dropped != tc.dropped {
				t.Errorf("challenge forgotten: %v", dropped)
			}
			s.check(t, err, s.token)
		})
	}
}
