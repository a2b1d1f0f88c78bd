package access

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		{"no credentials: nothing is asked", false, nil, false, 0},
		{"public", true, nil, true, 1},
		{"not public", true, refused, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ids, u := NewIdentities(time.Now), newUpstream(tc.credentials)
			var probes atomic.Int64
			var all sync.WaitGroup
			for range 32 {
				all.Go(func() {
					c := ids.Client(t.Context(), u, "owner/app", func(_ context.Context, anybody *upstream.Client) error {
						probes.Add(1)
						if anybody.Credentials() {
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

func TestIdentitiesForget(t *testing.T) {
	now := time.Unix(0, 0)
	ids, u := NewIdentities(func() time.Time { return now }), newUpstream(true)
	ask := func(err error) bool {
		return ids.Client(t.Context(), u, "owner/app", func(context.Context, *upstream.Client) error { return err }).Credentials()
	}
	private := errors.New("404")
	if !ask(nil) {
		t.Fatal("public content without the credentials")
	}
	now = now.Add(59 * time.Minute)
	if !ask(private) {
		t.Error("asked again within the hour")
	}
	now = now.Add(time.Minute)
	if ask(private) {
		t.Error("not asked again after an hour")
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
		"nobody before it":                    {"192.0.2.1:80", nil, "192.0.2.1"},
		"a stranger's word":                   {"192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"},
		"a proxy that says nothing":           {"10.0.0.1:80", nil, "10.0.0.1"},
		"a proxy's word":                      {"10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		"what the client wrote before it":     {"10.0.0.1:80", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		"in a header of its own":              {"10.0.0.1:80", []string{"127.0.0.1", "198.51.100.1"}, "198.51.100.1"},
		"two proxies":                         {"10.0.0.1:80", []string{"127.0.0.1, 198.51.100.1,10.0.0.2"}, "198.51.100.1"},
		"a client that is a proxy":            {"10.0.0.1:80", []string{"10.0.0.2"}, "10.0.0.2"},
		"IPv6":                                {"[fd00::1]:80", []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv4 in IPv6":                        {"[::ffff:10.0.0.1]:80", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"no address":                          {"10.0.0.1:80", []string{"198.51.100.1, unknown"}, "invalid IP"},
		"an empty one":                        {"10.0.0.1:80", []string{""}, "invalid IP"},
		"no address of the connection itself": {"pipe", []string{"198.51.100.1"}, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.Behind(tc.remote, tc.forwarded).String(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// TestGateway is told of one address that everybody seems to have.
func TestGateway(t *testing.T) {
	for name, tc := range map[string]struct {
		requests func(i int) string
		told     bool
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
			if tc.told {
				want = 1
			}
			if n := strings.Count(log.String(), "one address"); n != want {
				t.Errorf("told %d times, want %d", n, want)
			}
		})
	}
}
