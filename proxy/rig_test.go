package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	"go.uber.org/goleak"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/pull"
	"hubcap/proxy/quota"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
)

// TestMain keeps every test on loopback and looks for goroutines left over.
func TestMain(m *testing.M) {
	http.DefaultTransport = roundTripper(func(*http.Request) (*http.Response, error) {
		panic("a test used the default transport")
	})
	goleak.VerifyTestMain(testkit.Main{M: m})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const kib, mib = 1 << 10, 1 << 20

type rigOptions struct {
	dir      string
	hub      *fakehub.Hub
	cache    int64
	maxBlob  int64
	user     string
	password string
	clients  []netip.Prefix
	proxies  []netip.Prefix
	prefetch bool
	rules    upstream.Rules // of the hub
	other    *fakehub.Hub   // ghcr.io, harbor and registry.example.com:8443; the hub too when nil
	stall    time.Duration
	tryAgain time.Duration // a host that fails; at once when 0

	rateLimitWait time.Duration
	stalePublic   time.Duration // without an end when 0, not at all when negative
	tagRules      []freshness.Rule
	keepDeleted   bool
	offline       bool
	slow          <-chan time.Time // when a client has waited long enough for a check; never when nil

	misses  int   // a minute, of one client
	minRate int64 // bytes a second that a client has to take

	log io.Writer // besides the rig's own
}

// rig is a whole hubcap on loopback, in front of a fakehub.
type rig struct {
	t       testing.TB
	hub     *fakehub.Hub
	url     string
	login   string // the port where clients log in
	clock   *testkit.Clock
	dir     string // the data directory
	cache   *cache.Cache
	ledger  *eviction.Ledger
	handler *Handler
	all     *metrics.Metrics
	log     *testkit.Log
	asked   atomic.Int64 // requests to registries and whom they name, answered or not
	client  *http.Client
	stop    func()
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	if o.hub == nil {
		o.hub = fakehub.Start(t, fakehub.Options{})
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	if o.cache == 0 {
		o.cache = 1 << 30
	}
	if o.maxBlob == 0 {
		o.maxBlob = o.cache
	}
	if o.stall == 0 {
		o.stall = 5 * time.Second
	}
	o.tryAgain = max(o.tryAgain, 1)
	if o.misses == 0 {
		o.misses = 1 << 20 // who tries ten thousand ways in is to find them shut
	}
	if o.minRate == 0 {
		o.minRate = 8 * kib
	}
	if o.clients == nil {
		o.clients = loopback
	}
	r := &rig{t: t, hub: o.hub, dir: o.dir, clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), all: metrics.New(), log: new(testkit.Log)}
	var sink io.Writer = r.log
	if o.log != nil {
		sink = o.log
	}
	log := slog.New(slog.NewTextHandler(sink, nil))
	store, err := blobs.Open(o.dir)
	must(t, err)
	idx, err := index.Open(index.Options{Dir: store.Dir(), Room: store.Room, Reserve: 1 << 20, Interval: time.Hour, Log: log})
	must(t, err)
	r.ledger = eviction.NewLedger(eviction.LedgerOptions{
		Limit: o.cache, SmallSize: mib, SmallShare: 0.05, High: 1, Low: 0.9, Now: r.clock.Now, Metrics: r.all.Space,
	})
	r.cache = cache.New(cache.Options{
		Store: store, Index: idx, MaxBlob: o.maxBlob, ManifestMemory: 8 * mib, Ledger: r.ledger,
		FlushInterval: time.Hour, SweepInterval: time.Hour, StartWithin: time.Hour, Patience: time.Minute, VerifyInterval: 7 * 24 * time.Hour, Now: r.clock.Now, Connections: 4, MaxFills: 64, MaxConnections: 64, MaxPerHost: 16, Metrics: r.all, Log: log,
	})
	tags := freshness.New(freshness.Options{
		Store: r.cache, Index: idx, Rules: o.tagRules, KeepDeleted: o.keepDeleted, Metrics: r.all.Fills,
		Now: r.clock.Now, After: func(time.Duration) <-chan time.Time { return o.slow }, Log: log,
	})
	stalePublic := time.Duration(-1)
	if o.stalePublic != 0 {
		stalePublic = max(o.stalePublic, 0)
	}
	var ahead *prefetch.Prefetcher
	stopAhead := func() {}
	if o.prefetch {
		ahead = prefetch.New(prefetch.Options{Store: r.cache, Workers: 2, Now: r.clock.Now, Metrics: r.all.Prefetch, Log: log})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { ahead.Run(ctx) })
		stopAhead = func() { cancel(); running.Wait() }
	}
	puller := pull.New(pull.Options{
		Cache: r.cache, Tags: tags, Prefetch: ahead,
		Identities: access.NewIdentities(r.clock.Now), Grants: access.NewGrants(r.clock.Now), Links: access.NewLinks(idx, r.all.Fills, log),
		Patience: o.rateLimitWait, StalePublic: stalePublic, Now: r.clock.Now,
	})
	r.handler = New(Options{
		Upstreams: r.upstreams(o, log), Pull: puller, Cache: r.cache,
		Clients: access.NewClients(o.clients, o.proxies), Gateway: access.NewGateway(log),
		RateLimitWait: o.rateLimitWait, Now: r.clock.Now, Sleep: r.sleep,
		Misses:  quota.NewMisses(quota.MissesOptions{PerMinute: o.misses, Now: r.clock.Now, Log: log}),
		MinRate: o.minRate, Metrics: r.all.Requests, Log: log,
	})
	server := httptest.NewUnstartedServer(r.handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.Start()
	r.url = server.URL
	login := httptest.NewServer(r.handler.Login())
	r.login = login.URL
	r.client = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 128}}
	r.stop = sync.OnceFunc(func() {
		r.client.CloseIdleConnections()
		server.Close()
		login.Close()
		stopAhead()
		r.cache.Close()
		tags.Close()
		must(t, idx.Close())
		must(t, store.Close())
	})
	t.Cleanup(r.stop)
	return r
}

// sleep has the time pass at once.
func (r *rig) sleep(_ context.Context, d time.Duration) error {
	r.clock.Advance(d)
	return nil
}

// upstreams is a set of Docker Hub, played by the hub, of registries with other
// kinds of names, and of one that nobody plays.
func (r *rig) upstreams(o rigOptions, log *slog.Logger) *upstream.Set {
	entry := func(host, at string) upstream.Entry {
		u, err := url.Parse(at)
		must(r.t, err)
		return upstream.Entry{Host: host, TagTTL: time.Minute, Options: upstream.Options{
			Label: host, URL: u, PrivateCIDRs: loopback,
			ConnectTimeout: 5 * time.Second, HeaderTimeout: 5 * time.Second, StallTimeout: o.stall,
			Proxy:     func(*http.Request) (*url.URL, error) { r.asked.Add(1); return nil, nil }, // each request asks for its way
			UserAgent: "hubcap/test", MaxManifest: cache.MaxManifest, TryAgain: o.tryAgain, Offline: o.offline, Now: r.clock.Now, Metrics: r.all.Upstreams, Log: log,
		}}
	}
	hub := entry(upstream.DockerHub, o.hub.RegistryURL())
	token, err := url.Parse(o.hub.TokenURL())
	must(r.t, err)
	hub.TokenHosts = []string{token.Host}
	hub.Username, hub.Password = credentials.Secret(o.user), credentials.Secret(o.password)
	hub.Rules = o.rules
	if o.other == nil {
		o.other = o.hub
	}
	token, err = url.Parse(o.other.TokenURL())
	must(r.t, err)
	entries := []upstream.Entry{hub, entry("quay.io", "http://"+closedPort(r.t))}
	for _, host := range []string{"ghcr.io", "harbor", "registry.example.com:8443"} {
		other := entry(host, o.other.RegistryURL())
		other.TokenHosts = []string{token.Host}
		entries = append(entries, other)
	}
	set, err := upstream.NewSet(entries, upstream.DockerHub)
	must(r.t, err)
	return set
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reply is an answer, read to its end.
type reply struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func (r *rig) do(method, path string, header ...string) reply {
	r.t.Helper()
	got, err := r.try(context.Background(), method, path, header...)
	must(r.t, err)
	return got
}

// try is do, from any goroutine.
func (r *rig) try(ctx context.Context, method, path string, header ...string) (reply, error) {
	if strings.HasPrefix(path, "/") {
		path = r.url + path
	}
	req, err := http.NewRequestWithContext(ctx, method, path, nil)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp, body, err}, nil
}

func (r *rig) get(path string, header ...string) reply {
	r.t.Helper()
	return r.do(http.MethodGet, path, header...)
}

// settle waits until what goes on behind the answers has ended.
func (r *rig) settle() {
	r.t.Helper()
	eventually(r.t, "fills end", func() bool { return r.ledger.Status().Reserved == 0 })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// want checks status and, where they are given, body and origin.
func (p reply) want(t testing.TB, status int, body []byte, cacheStatus string) {
	t.Helper()
	if p.StatusCode != status {
		t.Fatalf("status %d, want %d; body %.200q", p.StatusCode, status, p.body)
	}
	if body != nil && !bytes.Equal(p.body, body) {
		t.Fatalf("%d bytes (%v) that differ from the %d wanted", len(p.body), p.err, len(body))
	}
	if cacheStatus != "" && p.Header.Get("Cache-Status") != cacheStatus {
		t.Errorf("Cache-Status %q, want %q", p.Header.Get("Cache-Status"), cacheStatus)
	}
}

// code is the OCI code of an error.
func (p reply) code() string {
	_, rest, _ := strings.Cut(string(p.body), `"code":"`)
	code, _, _ := strings.Cut(rest, `"`)
	return code
}

func blobPath(repo string, d digest.Digest) string { return fmt.Sprintf("/v2/%s/blobs/%s", repo, d) }

func sha(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// cdn counts GETs of a blob at the CDN.
func (r *rig) cdn(d digest.Digest) int {
	return r.hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfMethod(http.MethodGet), fakehub.OfReference(d))
}

// manifestRequests counts requests for manifests at the registry that were
// let in.
func (r *rig) manifestRequests(method string) int {
	return r.hub.Count(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(method), fakehub.Not(fakehub.OfStatus(401)))
}

func (r *rig) tokenRequests() int { return r.hub.Count(fakehub.OfKind(fakehub.KindToken)) }

// metric reads one value from a scrape.
func (r *rig) metric(line string) string {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.all.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, l := range strings.Split(w.Body.String(), "\n") {
		if value, ok := strings.CutPrefix(l, line+" "); ok {
			return value
		}
	}
	return ""
}
