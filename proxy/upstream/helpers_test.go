package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
	"hubcap/proxy/upstream/network"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// The box's credentials. The password must turn up nowhere but where a test
// says that it belongs.
const (
	boxUser = "box"
	canary  = "canary-7b1f52d9"
)

// canaryForms are the encodings in which the password might be sent.
var canaryForms = []string{
	canary,
	base64.StdEncoding.EncodeToString([]byte(boxUser + ":" + canary)),
	base64.RawURLEncoding.EncodeToString([]byte(canary)),
	base64.StdEncoding.EncodeToString([]byte("AWS:" + canary)),
	base64.StdEncoding.EncodeToString([]byte("oauth2accesstoken:" + canary)),
}

func holdsCanary(s string) bool {
	for _, form := range canaryForms {
		if strings.Contains(s, form) {
			return true
		}
	}
	return false
}

// loopback lets a client reach the servers of a test.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// fixture is a client with its metrics and log.
type fixture struct {
	*Client
	metrics *metrics.Metrics
	log     *testkit.Log
}

type change func(*Options)

// newFixture makes an anonymous client of a registry on loopback. Its time-outs
// are too long to matter in a test.
func newFixture(t *testing.T, at string, changes ...change) *fixture {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{metrics: metrics.New(), log: new(testkit.Log)}
	o := Options{
		Label: "registry.test", URL: u, PrivateCIDRs: loopback,
		ConnectTimeout: 20 * time.Second, HeaderTimeout: 20 * time.Second, StallTimeout: 20 * time.Second,
		Proxy:     func(*http.Request) (*url.URL, error) { return nil, nil }, //nolint:nilnil // as net/http wants it
		UserAgent: "hubcap/test", MaxManifest: 1 << 16, Now: time.Now, TryAgain: time.Nanosecond,
		Metrics: f.metrics.Upstreams,
		Log:     slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range changes {
		c(&o)
	}
	f.Client = NewClient(o)
	f.metrics.Upstreams.Watch(func() metrics.UpstreamStates { return statesOf([]Status{f.Status()}) })
	return f
}

func withCredentials(o *Options) { o.Username, o.Password = boxUser, canary }

// trusting puts the addresses of token services on the list.
func trusting(t *testing.T, addresses ...string) change {
	t.Helper()
	return func(o *Options) {
		for _, address := range addresses {
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			host, err := TokenHost(u.Host, u.Scheme)
			if err != nil {
				t.Fatal(err)
			}
			o.TokenHosts = append(o.TokenHosts, host)
		}
	}
}

func reaching(cidrs ...string) change {
	var allowed []netip.Prefix
	for _, one := range cidrs {
		allowed = append(allowed, netip.MustParsePrefix(one))
	}
	return func(o *Options) { o.PrivateCIDRs = allowed }
}

// trusted has a client trust authorities, if there are any.
func trusted(t *testing.T, pem []byte) change {
	t.Helper()
	if len(pem) == 0 {
		return func(*Options) {}
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := network.ReadCAFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.CAFiles = []*network.CAFile{file} }
}

func withStallTimeout(d time.Duration) change { return func(o *Options) { o.StallTimeout = d } }

// newHub starts a hub and a client that trusts its token service.
func newHub(t *testing.T, options fakehub.Options, changes ...change) (*fakehub.Hub, *fixture) {
	t.Helper()
	hub := fakehub.Start(t, options)
	return hub, newFixture(t, hub.RegistryURL(), append([]change{trusting(t, hub.TokenURL())}, changes...)...)
}

// within returns a context that ends long after the test should have: a test
// that hangs fails under its own name.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}

// asError returns err as an Error; anything else fails the test.
func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want an Error", err, err)
	}
	return e
}

// wantKind checks that err is an Error of a kind, and returns it.
func wantKind(t *testing.T, err error, kind Kind) *Error {
	t.Helper()
	e := asError(t, err)
	if e.Kind != kind {
		t.Fatalf("got kind %q, want %q: %v", e.Kind, kind, err)
	}
	return e
}

var anyQuery = regexp.MustCompile(`\?[^…\s]`)

// wantNoSecrets checks that neither the error nor the log holds the password, a
// query string or one of the secrets.
func (f *fixture) wantNoSecrets(t *testing.T, err error, secrets ...string) {
	t.Helper()
	for where, text := range map[string]string{"error": errorText(err), "log": f.log.String()} {
		if holdsCanary(text) {
			t.Errorf("the password stands in the %s: %s", where, text)
		}
		if anyQuery.MatchString(text) {
			t.Errorf("a query string stands in the %s: %s", where, text)
		}
		for _, secret := range secrets {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("%q stands in the %s: %s", secret, where, text)
			}
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// secretsOf returns the credentials and queries in the requests of a hub.
func secretsOf(hub *fakehub.Hub) []string {
	var secrets []string
	for _, r := range hub.Log() {
		_, token, _ := strings.Cut(r.Authorization, " ")
		secrets = append(secrets, token, r.Query)
	}
	return secrets
}

// refusals returns how many refusals are counted.
func (f *fixture) refusals(t *testing.T) int {
	t.Helper()
	n, _ := f.metrics.Value("hubcap_upstream_blocked_requests_total")
	return int(n)
}

// tokenRequests returns how many token requests a hub has received.
func tokenRequests(hub *fakehub.Hub) int { return hub.Count(fakehub.OfKind(fakehub.KindToken)) }

// together calls f n times at once and returns the errors.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errors.Join(errs...)
}
