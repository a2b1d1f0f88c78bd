package access

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

func TestClients(t *testing.T) {
	byDefault := NewClients(DefaultClients(), nil)
	own := NewClients([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, nil)
	for _, tc := range []struct {
		remote      string
		byDefault   bool
		inOperators bool
	}{
		{"127.0.0.1:1234", true, false},
		{"[::1]:1234", true, false},
		{"10.1.2.3:1234", true, false},
		{"172.31.255.255:1", true, false},
		{"172.32.0.1:1", false, false},
		{"192.168.1.1:1", true, false},
		{"100.64.0.1:1", true, false},
		{"[fd00::1]:1", true, false},
		{"[fe80::1%eth0]:1", true, false},
		{"[::ffff:10.0.0.1]:1", true, false},
		{"8.8.8.8:53", false, false},
		{"[2001:4860:4860::8888]:53", false, false},
		{"[::ffff:8.8.8.8]:53", false, false},
		{"203.0.113.9:1", false, true},
		{"[::ffff:203.0.113.9]:1", false, true},
		{"pipe", false, false},
		{"", false, false},
	} {
		if got := byDefault.Allow(byDefault.Behind(tc.remote, nil)); got != tc.byDefault {
			t.Errorf("%q by default: %v", tc.remote, got)
		}
		if got := own.Allow(own.Behind(tc.remote, nil)); got != tc.inOperators {
			t.Errorf("%q in the operator's ranges: %v", tc.remote, got)
		}
	}
}

func newUpstream(credentials bool) *upstream.Upstream {
	o := upstream.Options{
		Label: "docker.io", URL: &url.URL{Scheme: "https", Host: "registry.example"},
		Proxy:   func(*http.Request) (*url.URL, error) { return nil, nil },
		Metrics: metrics.New().Upstreams, Log: slog.New(slog.DiscardHandler), Now: time.Now, TryAgain: time.Hour,
	}
	u := &upstream.Upstream{Host: "docker.io", Anonymous: upstream.NewClient(o)}
	if credentials {
		o.Username, o.Password = "box", "secret"
		u.Own = upstream.NewClient(o)
	}
	return u
}

func TestIdentities(t *testing.T) {
	refused := errors.New("401")
	for _, tc := range []struct {
		name        string
		credentials bool
		probe       error
		own         bool
		probes      int64
	}{
		{"no credentials: no probe", false, nil, false, 0},
		{"public", true, nil, true, 1},
		{"not public", true, refused, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ids, u := NewIdentities(time.Now), newUpstream(tc.credentials)
			var probes atomic.Int64
			var all sync.WaitGroup
			for range 32 {
				all.Go(func() {
					c := ids.Client(t.Context(), u, "owner/app", func(_ context.Context, anonymous *upstream.Client) error {
						probes.Add(1)
						if anonymous.Credentials() {
							t.Error("the probe was given the credentials")
						}
						return tc.probe
					})
					if c.Credentials() != tc.own {
						t.Errorf("credentials used: %v", c.Credentials())
					}
				})
			}
			all.Wait()
			if n := probes.Load(); n != tc.probes {
				t.Errorf("%d probes", n)
			}
		})
	}
}

func TestIdentitiesExpire(t *testing.T) {
	now := time.Unix(0, 0)
	ids, u := NewIdentities(func() time.Time { return now }), newUpstream(true)
	ask := func(err error) bool {
		return ids.Client(t.Context(), u, "owner/app", func(context.Context, *upstream.Client) error { return err }).Credentials()
	}
	private := errors.New("404")
	public := func() int { return len(slices.Collect(ids.Public())) }
	if !ask(nil) {
		t.Fatal("public content without the credentials")
	}
	if got, want := slices.Collect(ids.Public()), []index.Origin{{Registry: "docker.io", Repository: "owner/app"}}; !slices.Equal(got, want) {
		t.Errorf("Public = %v", got)
	}
	if !ids.Known(u, "owner/app").Credentials() || ids.Known(u, "owner/other").Credentials() {
		t.Error("Known: the credentials are for the public repository only")
	}
	now = now.Add(59 * time.Minute)
	if !ask(private) {
		t.Error("asked again within the hour")
	}
	now = now.Add(time.Minute)
	if ask(private) {
		t.Error("not asked again after an hour")
	}
	if n := public(); n != 0 || ids.Known(u, "owner/app").Credentials() {
		t.Errorf("%d public repositories after it was refused", n)
	}
	if ask(nil) {
		t.Error("asked again within the minute")
	}
	now = now.Add(time.Minute)
	if !ask(nil) {
		t.Error("not asked again after a minute")
	}
}

func TestForwarded(t *testing.T) {
	c := NewClients(nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")})
	for name, tc := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"no header":                    {"192.0.2.1:80", nil, "192.0.2.1"},
		"not a trusted proxy":          {"192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"},
		"a proxy, no header":           {"10.0.0.1:80", nil, "10.0.0.1"},
		"a proxy's header":             {"10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		"forged by the client":         {"10.0.0.1:80", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		"two headers":                  {"10.0.0.1:80", []string{"127.0.0.1", "198.51.100.1"}, "198.51.100.1"},
		"two proxies":                  {"10.0.0.1:80", []string{"127.0.0.1, 198.51.100.1,10.0.0.2"}, "198.51.100.1"},
		"the client is a proxy":        {"10.0.0.1:80", []string{"10.0.0.2"}, "10.0.0.2"},
		"IPv6":                         {"[fd00::1]:80", []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv4 in IPv6":                 {"[::ffff:10.0.0.1]:80", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"no address":                   {"10.0.0.1:80", []string{"198.51.100.1, unknown"}, "invalid IP"},
		"empty":                        {"10.0.0.1:80", []string{""}, "invalid IP"},
		"no address of the connection": {"pipe", []string{"198.51.100.1"}, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.Behind(tc.remote, tc.forwarded).String(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// TestGateway: a gateway is suspected when all requests come from one private
// address, and logged once.
func TestGateway(t *testing.T) {
	for name, tc := range map[string]struct {
		requests func(i int) string
		suspect  bool
	}{
		"one gateway":               {func(int) string { return "10.0.0.1" }, true},
		"one gateway, and hubcap":   {func(i int) string { return []string{"10.0.0.1", "127.0.0.1"}[i%2] }, true},
		"another one, now and then": {func(i int) string { return []string{"10.0.0.1", "10.0.0.2"}[i/(gatewayAfter-1)%2] }, false},
		"hubcap's own host":         {func(int) string { return "127.0.0.1" }, false},
		"one public address":        {func(int) string { return "203.0.113.1" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			g := NewGateway(slog.New(slog.NewTextHandler(&log, nil)))
			for i := range 3 * gatewayAfter {
				g.Saw(netip.MustParseAddr(tc.requests(i)))
			}
			want := 0
			if tc.suspect {
				want = 1
			}
			if n := strings.Count(log.String(), "one address"); n != want {
				t.Errorf("logged %d times, want %d", n, want)
			}
			if at, ok := g.Suspect(); ok != tc.suspect || ok && at.String() != "10.0.0.1" {
				t.Errorf("Suspect = %v, %v", at, ok)
			}
		})
	}
}

func TestGrants(t *testing.T) {
	now := time.Unix(0, 0)
	g := NewGrants(func() time.Time { return now })
	mine, elsewhere, others := g.Hash("mine", "docker.io/owner/app"), g.Hash("mine", "docker.io/owner/other"), g.Hash("other", "docker.io/owner/app")
	g.Granted(mine)
	if !g.Alive(mine) || g.Alive(elsewhere) || g.Alive(others) || g.Len() != 1 {
		t.Errorf("a grant is for one token in one repository; %d alive", g.Len())
	}
	if mine == NewGrants(time.Now).Hash("mine", "docker.io/owner/app") {
		t.Error("two processes hash alike: a hash reveals which token it is of")
	}
	now = now.Add(grantFor - 1)
	if !g.Alive(mine) {
		t.Error("ended too early")
	}
	now = now.Add(1)
	if g.Alive(mine) || g.Len() != 0 {
		t.Error("alive after its time")
	}
	g.Granted(mine)
	g.Refused(mine)
	if g.Alive(mine) {
		t.Error("alive after a refusal")
	}
}

// TestLinks: a link is for one repository of one registry, and survives a
// restart.
func TestLinks(t *testing.T) {
	x, err := index.Open(index.Options{
		Dir: t.TempDir(), Room: func() (int64, error) { return 0, nil }, Reserve: 1, Interval: time.Hour, Log: slog.New(slog.DiscardHandler), // in memory
	})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	links := func() *Links { return NewLinks(x, metrics.New().Fills, slog.New(slog.DiscardHandler)) }
	d := digest.FromString("d")
	l := links()
	l.Link("ghcr.io", "owner/app", d)
	for _, l := range []*Links{l, links()} {
		for _, tc := range []struct {
			registry, repository string
			d                    digest.Digest
			want                 bool
		}{
			{"ghcr.io", "owner/app", d, true},
			{"ghcr.io", "owner/app", digest.FromString("other"), false},
			{"ghcr.io", "owner/other", d, false},
			{"ghcr.io", "owner", d, false},
			{"ghcr.io", "", d, false},
			{"quay.io", "owner/app", d, false},
		} {
			if got := l.Linked(tc.registry, tc.repository, tc.d); got != tc.want {
				t.Errorf("%s/%s has %s: %v", tc.registry, tc.repository, tc.d, got)
			}
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if !l.Linked("ghcr.io", "owner/app", d) {
		t.Error("forgotten when the index fails")
	}
	l.Link("ghcr.io", "owner/app", digest.FromString("new"))
	if !l.Linked("ghcr.io", "owner/app", digest.FromString("new")) {
		t.Error("not remembered when the index fails")
	}
}

func TestViews(t *testing.T) {
	under := func(r upstream.Rules) *upstream.Upstream { return &upstream.Upstream{Rules: r} }
	public := under(upstream.Rules{Deny: []string{"bad/**"}, Allow: []string{"owner/*", "bad/*"}})
	through := under(upstream.Rules{Visibility: upstream.Passthrough})
	shared := under(upstream.Rules{Visibility: upstream.Shared, SharedRepositories: []string{"owner/*"}})
	for _, tc := range []struct {
		u          *upstream.Upstream
		repository string
		login      bool
		want       View
		restricted bool
	}{
		{public, "owner/app", false, Open, false},
		{public, "owner/deep/app", false, Denied, false},
		{public, "bad/app", true, Denied, false},
		{through, "owner/app", true, Own, true},
		{through, "owner/app", false, Hidden, false},
		{shared, "owner/app", false, Shared, true},
		{shared, "other/app", true, Open, false},
	} {
		if got := ViewOf(tc.u, tc.repository, tc.login); got != tc.want || got.Restricted() != tc.restricted {
			t.Errorf("%s with login %v: %s, restricted %v; want %s", tc.repository, tc.login, got, got.Restricted(), tc.want)
		}
	}
}
