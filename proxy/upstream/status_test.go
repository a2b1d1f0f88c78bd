package upstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/metrics"
	"hubcap/proxy/upstream/network"
)

// TestStatus shows a pull limit, a backoff and a circuit as plain values.
func TestStatus(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{UserRateLimit: 10, Users: map[string]string{boxUser: canary}}, goesBy(clock), withCredentials, func(o *Options) { o.TryAgain = time.Minute })
	layer := fakehub.RandomBlob(1, 10)
	hub.Image(repo, "latest", layer)
	if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 503}, fakehub.OfRole(fakehub.RoleCDN)))
	for i := range tripAfter {
		b, err := client.OpenBlob(within(t), repo, digest.FromString(fmt.Sprint(i)), 0, -1)
		if err == nil {
			b.Body.Close()
		}
	}
	s := client.Status()
	if s.Configured != "registry.test" || s.URL != hub.RegistryURL() || s.Offline || len(s.Identities) != 1 {
		t.Fatalf("got %+v", s)
	}
	one := s.Identities[0]
	if one.Identity != "credentials" || one.Limit.Limit != 10 || one.Limit.Remaining != 9 || !one.Limit.Stated.Equal(clock.Now()) {
		t.Errorf("limit: %+v", one.Limit)
	}
	if c := one.Credentials; c == nil || !c.Usable || c.Refused || c.Failure != "" || c.Accepted.IsZero() {
		t.Errorf("credentials: %+v", c)
	}
	roles := map[string]HostStatus{}
	for _, h := range s.Hosts {
		roles[h.Role] = h
	}
	if h := roles["registry"]; h.Circuit != "closed" || h.Host != network.HostPort(client.o.URL) || len(h.Addresses) != 1 || h.Addresses[0] != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("registry: %+v", h)
	}
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}))
	wantKind(t, client.head(within(t)), RateLimited)
	for _, h := range client.Status().Hosts {
		if h.Role == "registry" && !h.LimitedUntil.Equal(clock.Now().Add(7*time.Second)) {
			t.Errorf("limited until %v", h.LimitedUntil)
		}
	}
	text, err := json.Marshal(client.Status())
	if err != nil || holdsCanary(string(text)) {
		t.Errorf("%v, or the password is in %s", err, text)
	}
}

// TestStatusOfACircuit: the state, since when, and the last failure.
func TestStatusOfACircuit(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := newFixture(t, "https://registry.test", goesBy(clock), func(o *Options) { o.TryAgain = time.Hour })
	ask := throughBreaker(f, &scripted{status: always(-1)}, "registry.test")
	for i := range tripAfter {
		_ = ask(t.Context(), fmt.Sprint(i))
	}
	opened := clock.Now()
	clock.Advance(time.Minute)
	want := HostStatus{
		Host: "registry.test:443", Role: "registry", Circuit: "open", Since: opened, LastFailure: opened, Failure: "no connection",
	}
	if got := f.Status().Hosts; len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := circuits(f, "registry", "open"); n != 1 {
		t.Errorf("%v circuits are exported", n)
	}
}

// TestStatusOfASet: there is one Status for each upstream, for those of patterns
// once they were requested, with all identities.
func TestStatusOfASet(t *testing.T) {
	t.Parallel()
	set, dials := newSet(t, "docker.io", "*.pkg.dev")
	set.Find("b.pkg.dev")
	set.Find("a.pkg.dev")
	var got []string
	for _, s := range set.Status() {
		got = append(got, s.Host+" "+s.Configured+" "+s.URL)
	}
	want := []string{"a.pkg.dev *.pkg.dev https://a.pkg.dev", "b.pkg.dev *.pkg.dev https://b.pkg.dev", "docker.io docker.io https://docker.io"}
	if fmt.Sprint(got) != fmt.Sprint(want) || dials.Load() != 0 {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSeriesAreBounded: upstreams behind a pattern answer with random headers,
// redirects and challenges while they are scraped. Whatever they send, there is
// one value of the label upstream, and no other label value of theirs.
func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := n.Add(1)
		w.Header().Set("Docker-RateLimit-Source", fmt.Sprintf("hostile-%d", i))
		w.Header().Set("RateLimit-Limit", fmt.Sprintf("%d;w=%d", i, i))
		w.Header().Set("RateLimit-Remaining", fmt.Sprintf("%d;w=hostile", i))
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://hostile-%d.pkg.dev/",service="hostile",scope="hostile"`, i))
		w.Header().Set("Retry-After", "0")
		w.Header().Set("Location", fmt.Sprintf("http://hostile-%d.pkg.dev/hostile", i))
		w.WriteHeader([]int{200, 307, 401, 403, 404, 429, 500, 503}[i%8])
		fmt.Fprintf(w, `{"errors":[{"code":"HOSTILE%d"}]}`, i)
	}))
	t.Cleanup(hostile.Close)
	proxy, err := url.Parse(hostile.URL) // so that every host behind the pattern is this server
	if err != nil {
		t.Fatal(err)
	}
	all := metrics.New()
	var o Options
	newFixture(t, "https://docker.io", func(of *Options) {
		of.Label, of.Metrics, of.Proxy = DockerHub, all.Upstreams, http.ProxyURL(proxy)
		o = *of
	})
	set, err := NewSet([]Entry{{Host: DockerHub, Options: o}}, DockerHub)
	if err != nil {
		t.Fatal(err)
	}
	scrape := func() string {
		w := httptest.NewRecorder()
		all.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
	var asked sync.WaitGroup
	for i := range patternHosts + 16 {
		asked.Go(func() {
			e := Entry{Host: fmt.Sprintf("h%d.pkg.dev", i), Options: o} // as Set.Find makes it, but for the scheme
			e.Label, e.URL = "*.pkg.dev", &url.URL{Scheme: "http", Host: e.Host}
			u := e.build()
			set.lazy.Keep(e.Host, u)
			for range 2 {
				_, _ = u.Anonymous.GetManifest(within(t), repo, "latest")
				_, _ = u.Anonymous.HeadBlob(within(t), repo, digest.FromString("x"))
			}
		})
	}
	for range 10 {
		scrape()
		set.Status()
	}
	asked.Wait()
	body := scrape()
	if n.Load() < patternHosts {
		t.Fatalf("only %d requests reached the upstreams", n.Load())
	}
	if strings.Contains(strings.ToLower(body), "hostile") {
		t.Error("what an upstream sent is in the metrics")
	}
	series := 0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "hubcap_upstream_") {
			series++
			if !strings.Contains(line, `upstream="*.pkg.dev"`) && !strings.Contains(line, `upstream="docker.io"`) {
				t.Errorf("a foreign label: %s", line)
			}
		}
	}
	if series == 0 || series > 50 {
		t.Errorf("%d series of two upstreams", series)
	}
}
