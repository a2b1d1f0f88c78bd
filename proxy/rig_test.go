package proxy_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy"
	"hubcap/proxy/config"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pins"
	"hubcap/proxy/server"
	"hubcap/proxy/site"
	"hubcap/proxy/upstream"
)

// TestMain keeps every test on loopback and looks for goroutines left over.
// Tests in parallel are those that wait: for a registry to be asked again, for
// a client to be given up. So many of them run at once, whatever the processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	testkit.InMemory()
	http.DefaultTransport = roundTripper(func(*http.Request) (*http.Response, error) {
		panic("a test used the default transport")
	})
	// net/http keeps a connection for half a second after it has refused a head.
	testkit.VerifyMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
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
	tryAgain time.Duration // after which a host that failed is asked again; at once when 0

	rateLimitWait time.Duration
	stalePublic   time.Duration // unlimited when 0, never when negative
	tagRules      []freshness.Rule
	cooldowns     []freshness.Cooldown
	keepDeleted   bool
	offline       bool
	pinsFile      string
	slow          <-chan time.Time // when a request has waited long enough for a check; never when nil

	notFoundLimit int
	minRate       int64 // bytes a second that a client must read

	log io.Writer // instead of the rig's own

	site    []string // the boxes
	sisters []string // of other sites

	sistersTimeout time.Duration // 20 s when 0
	boxTime        time.Duration // a minute when 0
	self           string        // which of them
	listener       net.Listener  // of the mirror port; one of its own when nil
	bucket         string        // the address of the S3 tier's
	pace           string        // HUBCAP_BANDWIDTH
}

// defaults fills in what a test has not set.
func (o *rigOptions) defaults(t testing.TB) {
	if o.hub == nil {
		o.hub = fakehub.Start(t, fakehub.Options{})
	}
	if o.other == nil {
		o.other = o.hub
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	o.cache = cmp.Or(o.cache, 1<<30)
	o.maxBlob = cmp.Or(o.maxBlob, o.cache)
	o.stall = cmp.Or(o.stall, testkit.Patience)
	o.tryAgain = max(o.tryAgain, 1)
	o.notFoundLimit = cmp.Or(o.notFoundLimit, 1<<20) // thousands of wrong requests are to get their own answers
	o.minRate = cmp.Or(o.minRate, 8*kib)
	if o.clients == nil {
		o.clients = loopback
	}
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
	handler *proxy.Handler
	pins    *pins.Pins
	site    *site.Site
	all     *metrics.Metrics
	log     *testkit.Log
	asked   atomic.Int64 // requests to registries and token services, answered or not
	client  *http.Client
	stop    func()
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	o.defaults(t)
	r := &rig{t: t, hub: o.hub, dir: o.dir, clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), log: new(testkit.Log)}
	var sink io.Writer = r.log
	if o.log != nil {
		sink = o.log
	}
	options := server.Options{
		Log: slog.New(slog.NewTextHandler(sink, nil)), Version: "test", Now: r.clock.Now,
		After:  func(time.Duration) <-chan time.Time { return o.slow },
		Sleep:  func(_ context.Context, d time.Duration) error { r.clock.Advance(d); return nil },
		Proxy:  func(*http.Request) (*url.URL, error) { r.asked.Add(1); return nil, nil }, // is called for each request
		Adjust: o.adjust,
	}
	s, err := server.New(r.config(o), options)
	// A process that another test is just starting has the files of this one,
	// until it runs: among them the lock of a hubcap that was stopped.
	for begun := time.Now(); errors.Is(err, blobs.ErrInUse) && time.Since(begun) < testkit.Patience; s, err = server.New(r.config(o), options) {
		time.Sleep(time.Millisecond)
	}
	must(t, err)
	r.cache, r.ledger, r.handler, r.all, r.pins = s.Cache, s.Ledger, s.Handler, s.Metrics, s.Pins
	r.site = s.Site
	mirror := httptest.NewUnstartedServer(r.handler)
	mirror.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	if o.listener != nil {
		must(t, mirror.Listener.Close())
		mirror.Listener = o.listener
	}
	mirror.Start()
	r.url = mirror.URL
	login := httptest.NewServer(r.handler.Login())
	r.login = login.URL
	r.client = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 128}}
	r.stop = sync.OnceFunc(func() {
		r.client.CloseIdleConnections()
		mirror.Close()
		login.Close()
		s.Close()
		// A busy machine may need longer than what the index has to close.
		if log := r.log.String(); strings.Contains(log, "closing failed") && !strings.Contains(log, "the index did not close within") {
			t.Error(r.log)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// adjust makes the rig small, and has nothing happen by itself.
func (o *rigOptions) adjust(s *server.Settings) {
	s.Disk = server.Disk{Cache: o.cache, MaxBlob: o.maxBlob, Reserve: mib}
	s.Manifests, s.Fills, s.Transfers = 8*mib, 64, 64
	s.HighWatermark, s.LowWatermark = 1, 0.9
	s.SnapshotInterval, s.FlushInterval, s.SweepInterval, s.StartWithin = time.Hour, time.Hour, time.Hour, time.Hour
	s.PinsInterval = time.Hour
	if o.pinsFile != "" {
		s.PinsInterval = 10 * time.Millisecond
	}
	s.SlowWriter, s.TryAgain, s.BoxTime = time.Minute, o.tryAgain, cmp.Or(o.boxTime, testkit.Patience)
}

// config is the rig's configuration: Docker Hub, played by the hub, registries
// with other kinds of names, and one that is down.
func (r *rig) config(o rigOptions) config.Config {
	environ := map[string]string{
		"DATA_DIR": o.dir, "STALL_TIMEOUT": o.stall.String(), "HEADER_TIMEOUT": testkit.Patience.String(), "CONNECT_TIMEOUT": testkit.Patience.String(),
		"RATE_LIMIT_WAIT": o.rateLimitWait.String(), "KEEP_DELETED": strconv.FormatBool(o.keepDeleted), "OFFLINE": strconv.FormatBool(o.offline),
		"PREFETCH": string(config.PrefetchOff), "PINS_FILE": o.pinsFile,
	}
	if o.site != nil {
		environ["SITE"], environ["SITE_SELF"] = strings.Join(o.site, ","), o.self
	}
	environ["SISTERS"] = strings.Join(o.sisters, ",")
	environ["SISTERS_TIMEOUT"] = cmp.Or(o.sistersTimeout, 20*time.Second).String() // however busy the machine is
	if o.bucket != "" {
		environ["S3_URL"], environ["S3_ACCESS_KEY"], environ["S3_SECRET_KEY"] = o.bucket, "key", "secret"
	}
	environ["BANDWIDTH"] = o.pace
	if o.prefetch {
		environ["PREFETCH"] = ""
	}
	if o.stalePublic != 0 {
		environ["STALE_IF_ERROR"] = max(o.stalePublic, 0).String()
	}
	hosts := []string{upstream.DockerHub, "quay.io", "ghcr.io", "harbor", "registry.example.com:8443"}
	for n, host := range hosts {
		hub := o.other
		if host == upstream.DockerHub {
			hub = o.hub
		}
		at, token := hub.RegistryURL(), strings.TrimPrefix(hub.TokenURL(), "http://")
		if host == "quay.io" {
			at = "http://" + closedPort(r.t)
		}
		token, _, _ = strings.Cut(token, "/")
		for name, value := range map[string]string{"HOST": host, "URL": at, "TOKEN_HOSTS": token, "PRIVATE_CIDRS": "127.0.0.0/8,::1/128"} {
			environ[fmt.Sprintf("UPSTREAM_%d_%s", n, name)] = value
		}
	}
	environ["UPSTREAM_0_USERNAME"], environ["UPSTREAM_0_PASSWORD"] = o.user, o.password
	var list []string
	for name, value := range environ {
		list = append(list, config.Prefix+name+"="+value)
	}
	c, err := config.Load(list)
	must(r.t, err)
	c.Upstreams = slices.DeleteFunc(c.Upstreams, func(e upstream.Entry) bool { return !slices.Contains(hosts, e.Host) })
	for i := range c.Upstreams {
		if c.Upstreams[i].Host == upstream.DockerHub {
			c.Upstreams[i].Rules = o.rules
		}
	}
	// These may be smaller than an operator can choose.
	c.NotFoundLimit, c.MinClientRate = config.Limit(o.notFoundLimit), config.Rate(o.minRate)
	c.AllowClients, c.TrustedProxies, c.TagRules = o.clients, o.proxies, o.tagRules
	c.TagCooldown = o.cooldowns
	return c
}

// closedPort returns an address at which nothing listens.
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
	var body bytes.Buffer
	if method != http.MethodHead && resp.ContentLength > 0 {
		body.Grow(int(min(resp.ContentLength, 64*mib)) + bytes.MinRead)
	}
	_, err = body.ReadFrom(resp.Body)
	return reply{resp, body.Bytes(), err}, nil
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

var eventually = testkit.Eventually

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
