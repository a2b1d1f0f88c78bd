package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

func TestCheckAddr(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		refused []string
		passed  []string
	}{
		{"this network", []string{"0.0.0.0", "0.255.255.255"}, []string{"1.0.0.0"}},
		{"private 10", []string{"10.0.0.0", "10.255.255.255"}, []string{"9.255.255.255", "11.0.0.0"}},
		{"carrier NAT", []string{"100.64.0.0", "100.100.100.200", "100.127.255.255"}, []string{"100.63.255.255", "100.128.0.0"}},
		{"loopback", []string{"127.0.0.1", "127.255.255.255"}, []string{"126.255.255.255", "128.0.0.1"}},
		{"link-local", []string{"169.254.0.0", "169.254.169.254", "169.254.170.2"}, []string{"169.253.255.255", "169.255.0.0"}},
		{"private 172", []string{"172.16.0.0", "172.31.255.255"}, []string{"172.15.255.255", "172.32.0.0"}},
		{"protocol assignments", []string{"192.0.0.0", "192.0.0.192"}, []string{"191.255.255.255", "192.0.1.0"}},
		{"documentation", []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}, []string{"192.0.3.0", "198.51.101.0", "203.0.114.0"}},
		{"6to4 relays", []string{"192.88.99.1"}, []string{"192.88.98.255", "192.88.100.0"}},
		{"private 192", []string{"192.168.0.0", "192.168.255.255"}, []string{"192.167.255.255", "192.169.0.0"}},
		{"benchmarks", []string{"198.18.0.0", "198.19.255.255"}, []string{"198.17.255.255", "198.20.0.0"}},
		{"multicast", []string{"224.0.0.1", "239.255.255.255"}, []string{"223.255.255.255"}},
		{"reserved", []string{"240.0.0.0", "255.255.255.255"}, nil},
		{"Azure's wire server", []string{"168.63.129.16"}, []string{"168.63.129.15", "168.63.129.17"}},
		{"IPv6 unspecified and loopback", []string{"::", "::1", "::127.0.0.1"}, nil},
		{"IPv4-mapped", []string{"::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:127.0.0.1"}, []string{"::ffff:8.8.8.8"}},
		{"IPv4-translated", []string{"::ffff:0:169.254.169.254", "::ffff:0:8.8.8.8"}, nil},
		{"NAT64", []string{"64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1"}, []string{"64:ff9b::8.8.8.8"}},
		{"NAT64 of the site", []string{"64:ff9b:1::a9fe:a9fe", "64:ff9b:1::8.8.8.8"}, nil},
		{"6to4", []string{"2002:a9fe:a9fe::", "2002:a00:1::1", "2002:7f00:1::"}, []string{"2002:808:808::1"}},
		{"discard", []string{"100::1"}, []string{"101::1"}},
		{"Teredo", []string{"2001::1"}, []string{"2001:4860:4860::8888"}},
		{"IPv6 documentation", []string{"2001:db8::1"}, []string{"2001:db9::1"}},
		{"IPv6 private", []string{"fc00::1", "fd00:ec2::254"}, []string{"fbff::1"}},
		{"IPv6 link-local", []string{"fe80::1", "fe80::1%eth0", "febf::1"}, nil},
		{"IPv6 site-local", []string{"fec0::1", "feff::1"}, nil},
		{"IPv6 multicast", []string{"ff02::1", "ff0e::1"}, nil},
		{"the Internet", nil, []string{"8.8.8.8", "2606:4700::1", "2a00:1450::1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, a := range tt.refused {
				if err := checkAddr("host", netip.MustParseAddr(a), nil); !errors.Is(err, errRefused) {
					t.Errorf("%s: got %v, want a refusal", a, err)
				}
			}
			for _, a := range tt.passed {
				if err := checkAddr("host", netip.MustParseAddr(a), nil); err != nil {
					t.Errorf("%s: %v", a, err)
				}
			}
		})
	}
}

// TestEveryRangeIsTried: a range that is added to the filter and to no test
// fails here, at its first and last address.
func TestEveryRangeIsTried(t *testing.T) {
	t.Parallel()
	for _, p := range special {
		last := p.Masked().Addr().AsSlice()
		for i := p.Bits(); i < p.Addr().BitLen(); i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, a := range []netip.Addr{p.Addr(), end} {
			if err := checkAddr("host", a, nil); !errors.Is(err, errRefused) {
				t.Errorf("%s of %s: got %v, want a refusal", a, p, err)
			}
			if err := checkAddr("host", a, prefixes("0.0.0.0/0", "::/0")); err != nil {
				t.Errorf("%s of %s, allowed: %v", a, p, err)
			}
		}
	}
}

func TestAllowedRanges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addr    string
		allowed []string
		ok      bool
	}{
		{"10.1.2.3", []string{"10.1.0.0/16"}, true},
		{"10.2.2.3", []string{"10.1.0.0/16"}, false},
		{"10.2.2.3", []string{"10.1.0.0/16", "10.2.2.3/32"}, true},
		{"::ffff:10.1.2.3", []string{"10.1.0.0/16"}, true},
		{"64:ff9b::10.1.2.3", []string{"10.1.0.0/16"}, true},
		{"2002:a01:203::1", []string{"10.1.0.0/16"}, true},
		{"64:ff9b::169.254.169.254", []string{"10.1.0.0/16"}, false},
		{"169.254.169.254", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, false},
		{"fd12::1", []string{"fd12::/16"}, true},
		{"fd13::1", []string{"fd12::/16"}, false},
		{"fe80::1%eth0", []string{"fe80::/10"}, true},
		{"127.0.0.1", []string{"::/0"}, false},
	}
	for _, tt := range tests {
		err := checkAddr("host", netip.MustParseAddr(tt.addr), prefixes(tt.allowed...))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s with %v: got %v, want it passed: %t", tt.addr, tt.allowed, err, tt.ok)
		}
	}
}

// wantNoConnection checks that nothing has connected to a listener: its next
// connection is our own.
func wantNoConnection(t *testing.T, l net.Listener) {
	t.Helper()
	var d net.Dialer
	ours, err := d.DialContext(within(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	next, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.RemoteAddr().String() != ours.LocalAddr().String() {
		t.Error("a connection was made")
	}
}

func listen(t *testing.T, address string) (l net.Listener, port string) {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return l, port
}

// TestInsideIsNotConnectedTo: the address counts, whatever name led to it.
func TestInsideIsNotConnectedTo(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]string{
		"name": "localhost", "address": "127.0.0.1", "unspecified": "0.0.0.0", "mapped": "[::ffff:127.0.0.1]",
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				t.Parallel()
				l, port := listen(t, "127.0.0.1:0")
				client := newFixture(t, scheme+"://"+host+":"+port, withCredentials, reaching())
				_, err := client.GetManifest(within(t), repo, "latest")
				if e := wantKind(t, err, Refused); e.Temporary() || !e.Failing() {
					t.Errorf("got %+v", e)
				}
				client.wantNoSecrets(t, err)
				if !strings.Contains(err.Error(), "PRIVATE_CIDRS") {
					t.Errorf("%q does not tell the operator what to do", err)
				}
				wantNoConnection(t, l)
				if n := client.refusals(t); n != 1 {
					t.Errorf("%d refusals counted, want 1", n)
				}
			})
		}
	}
}

// TestInsideBehindTheRegistry: the filter stands before token services and
// redirects too.
func TestInsideBehindTheRegistry(t *testing.T) {
	t.Parallel()
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.client = newFixture(t, s.registry.URL, withCredentials, reaching("127.0.0.1/32"))
		l, port := listen(t, "127.0.0.3:0")
		for _, to := range []string{"http://127.0.0.3:" + port + "/?signature=1", "http://169.254.169.254/latest", "http://[::1]:1/", "http://[fd00:ec2::254]/"} {
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			}
			_, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			wantKind(t, err, Refused)
			s.check(t, err, nil)
		}
		wantNoConnection(t, l)
	})
	t.Run("token service", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		l, port := listen(t, "127.0.0.3:0")
		realm := "http://127.0.0.3:" + port
		s.client = newFixture(t, s.registry.URL, withCredentials, reaching("127.0.0.1/32"), trusting(t, realm))
		s.registry.answer = challenging(s.bearer(realm))
		_, err := s.client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Refused)
		s.check(t, err, nil)
		wantNoConnection(t, l)
	})
}

func TestControl(t *testing.T) {
	t.Parallel()
	d := &dialer{}
	for address, ok := range map[string]bool{
		"8.8.8.8:443": true, "[2606:4700::1]:443": true, "127.0.0.1:443": false, "[fe80::1%eth0]:443": false,
		"docker.io:443": false, "8.8.8.8": false, "": false,
	} {
		if err := d.control("host")("tcp", address, nil); (err == nil) != ok || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%q: got %v", address, err)
		}
	}
}

func TestProxiedTarget(t *testing.T) {
	t.Parallel()
	tests := []struct {
		url     string
		allowed []string
		ok      bool
	}{
		{"https://docker.io/", nil, true},
		{"https://8.8.8.8/", nil, true},
		{"https://127.0.0.1/", nil, false},
		{"https://[::1]/", nil, false},
		{"https://[::ffff:169.254.169.254]/", nil, false},
		{"https://169.254.169.254./", nil, false},
		{"https://10.0.0.1/", nil, false},
		{"https://10.0.0.1/", []string{"10.0.0.0/8"}, true},
		{"https://localhost/", nil, false},
		{"https://LOCALHOST./", nil, false},
		{"https://a.localhost/", nil, false},
		{"https://intranet/", nil, false},
		{"https://2130706433/", nil, false},
		{"https://0x7f000001/", nil, false},
		{"https://metadata.google.internal/", nil, false},
		{"https://Metadata.Google.Internal./", nil, false},
		{"https://harbor.internal/", []string{"10.0.0.0/8"}, true},
		{"https:///", nil, false},
	}
	for _, tt := range tests {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		err = proxiedTarget(u, prefixes(tt.allowed...))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s with %v: got %v, want it passed: %t", tt.url, tt.allowed, err, tt.ok)
		}
	}
}

func TestProxyAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://proxy.test":      "proxy.test:80",
		"http://proxy.test:3128": "proxy.test:3128",
		"https://proxy.test":     "proxy.test:443",
		"socks5://10.0.0.1":      "10.0.0.1:1080",
		"socks5h://[::1]":        "[::1]:1080",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := proxyAddress(u); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// newProxy starts an outgoing proxy on loopback that leads every name to one
// address.
func newProxy(t *testing.T, to net.Addr) *recorder {
	t.Helper()
	forward := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}}
	t.Cleanup(forward.CloseIdleConnections)
	return newRecorder(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnel(w, to)
			return
		}
		resp, err := forward.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}

// tunnel answers CONNECT.
func tunnel(w http.ResponseWriter, to net.Addr) {
	far, err := net.Dial("tcp", to.String())
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { io.Copy(far, near); far.Close() }()
	go func() { io.Copy(near, far); near.Close() }()
}

// through has a client use a proxy for everything but the hosts named.
func through(t *testing.T, proxy *httptest.Server, except ...string) change {
	t.Helper()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Proxy = func(req *http.Request) (*url.URL, error) {
			for _, host := range except {
				if req.URL.Hostname() == host {
					return nil, nil //nolint:nilnil // as net/http wants it
				}
			}
			return at, nil
		}
	}
}

// TestProxy pulls by Docker Hub's real names through a proxy on loopback,
// where nothing else may be connected to.
func TestProxy(t *testing.T) {
	t.Parallel()
	for name, tls := range map[string]bool{"CONNECT": true, "forward": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := fakehub.Start(t, fakehub.Options{TLS: tls, Names: fakehub.DockerHub(), Users: map[string]string{boxUser: canary}})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
			proxy := newProxy(t, hub.Addr(fakehub.RoleRegistry))
			changes := []change{through(t, proxy.Server), reaching(), withCredentials, trusting(t, hub.TokenURL())}
			if tls {
				changes = append(changes, trusted(hub.CAPEM()))
			}
			client := newFixture(t, hub.RegistryURL(), changes...)
			if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
				t.Fatal(err)
			}
			b, err := client.OpenBlob(within(t), repo, image.Layers[0].Digest, 0, -1)
			readBlob(t, b, err)
			if proxy.count() == 0 {
				t.Error("the proxy was not used")
			}
			if tls && holdsCanary(proxy.all()) {
				t.Error("the proxy was told the password")
			}
			if n := hub.AuthorizationLeaks(); n != 0 {
				t.Errorf("%d requests brought a token to the CDN", n)
			}
		})
	}
}

// TestProxyTargets: what the proxy would resolve is refused by name before the
// proxy is asked.
func TestProxyTargets(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, "127.0.0.1:0")
	proxy := newProxy(t, l.Addr())
	for _, at := range []string{"http://localhost", "http://127.0.0.1:" + proxy.port(), "http://169.254.169.254", "http://metadata.google.internal", "https://intranet"} {
		client := newFixture(t, at, through(t, proxy.Server), reaching())
		_, err := client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Refused)
		if n := client.refusals(t); n != 1 {
			t.Errorf("%s: %d refusals counted, want 1", at, n)
		}
	}
	if proxy.count() > 0 {
		t.Errorf("the proxy was asked:\n%s", proxy.all())
	}
}

// TestProxyIsNoTarget: the proxy's address is open as the way to others, not
// as a place that a registry may send us to, past the proxy as NO_PROXY has it
// for loopback.
func TestProxyIsNoTarget(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	proxy := newProxy(t, s.registry.Listener.Addr())
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, proxy.URL+"/internal", http.StatusTemporaryRedirect)
	}
	client := newFixture(t, "http://registry.example", through(t, proxy.Server, "127.0.0.1"), reaching())
	_, err := client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
	wantKind(t, err, Refused)
	if strings.Contains(proxy.all(), "GET /internal") {
		t.Errorf("the proxy itself was asked:\n%s", proxy.all())
	}
}

// TestRace: a dead address costs its successor a quarter of a second, one that
// refuses costs nothing, and nothing outlives the winner.
func TestRace(t *testing.T) {
	t.Parallel()
	at := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{8, 8, 8, i}) }
	for name, tc := range map[string]struct {
		// For each address: how long it takes to answer; negative when it refuses then.
		takes  []time.Duration
		winner byte // counted from 1; 0 for none
		took   time.Duration
	}{
		"the first":            {[]time.Duration{time.Millisecond, 0}, 1, time.Millisecond},
		"three dead":           {[]time.Duration{time.Hour, time.Hour, time.Hour, time.Millisecond}, 4, 751 * time.Millisecond},
		"three that refuse":    {[]time.Duration{-1, -1, -1, time.Millisecond}, 4, time.Millisecond + 3},
		"slow, and not slower": {[]time.Duration{400 * time.Millisecond, time.Second}, 1, 400 * time.Millisecond},
		"both late":            {[]time.Duration{400 * time.Millisecond, 200 * time.Millisecond}, 1, 400 * time.Millisecond},
		"all dead":             {[]time.Duration{time.Hour, time.Hour}, 0, 5 * time.Second},
		"all refuse":           {[]time.Duration{-1, -1}, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var addrs []netip.Addr
				for i := range tc.takes {
					addrs = append(addrs, at(byte(i)))
				}
				open := new(atomic.Int64)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				began := time.Now()
				conn, got, err := race(ctx, addrs, func(ctx context.Context, a netip.Addr) (net.Conn, error) {
					takes := tc.takes[a.As4()[3]]
					select {
					case <-time.After(max(takes, -takes)):
					case <-ctx.Done():
						if ctx.Err() == context.DeadlineExceeded {
							return nil, ctx.Err()
						}
						time.Sleep(time.Millisecond) // it comes through nevertheless
					}
					if takes < 0 {
						return nil, syscall.ECONNREFUSED
					}
					open.Add(1)
					return closing{open: open}, nil
				})
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.winner == 0 {
					if err == nil {
						t.Error("there is a winner")
					}
					return
				}
				if err != nil || got != at(tc.winner-1) {
					t.Fatalf("%v %v, want number %d", got, err, tc.winner)
				}
				_ = conn.Close()
				time.Sleep(time.Second)
				if n := open.Load(); n != 0 {
					t.Errorf("%d connections are left open", n)
				}
			})
		})
	}
}

// closing counts itself out.
type closing struct {
	net.Conn
	open *atomic.Int64
}

func (c closing) Close() error {
	c.open.Add(-1)
	return nil
}

func TestInTurn(t *testing.T) {
	t.Parallel()
	addrs := func(all ...string) (parsed []netip.Addr) {
		for _, a := range all {
			parsed = append(parsed, netip.MustParseAddr(a))
		}
		return parsed
	}
	for _, tc := range []struct {
		last     string
		in, want []netip.Addr
	}{
		{"::", addrs("2600::1", "2600::2", "8.8.8.1", "8.8.8.2", "8.8.8.3"), addrs("2600::1", "8.8.8.1", "2600::2", "8.8.8.2", "8.8.8.3")},
		{"8.8.8.2", addrs("8.8.8.1", "::ffff:8.8.8.2"), addrs("8.8.8.2", "8.8.8.1")},
		{"8.8.8.9", addrs("8.8.8.1", "2600::1"), addrs("8.8.8.1", "2600::1")},
		{"::", nil, nil},
	} {
		if got := inTurn(tc.in, netip.MustParseAddr(tc.last)); !slices.Equal(got, tc.want) {
			t.Errorf("%v, %s last: %v, want %v", tc.in, tc.last, got, tc.want)
		}
	}
}

// blackhole is an address that does not answer: its queue of connections is
// full, so that the kernel ignores further ones.
func blackhole(t *testing.T, address string) {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		t.Skip(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// TestDeadAddresses: of the four addresses of a name three are dead. The fourth
// is found in time, and is the first to be asked from then on.
func TestDeadAddresses(t *testing.T) {
	t.Parallel()
	_, port := listen(t, "127.0.0.1:0")
	addrs := []netip.Addr{}
	for _, dead := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		blackhole(t, dead+":"+port)
		addrs = append(addrs, netip.MustParseAddr(dead))
	}
	d := newDialer(loopback, 5*time.Second)
	d.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return append(slices.Clip(addrs), netip.MustParseAddr("127.0.0.1")), nil
	}
	for i, most := range []time.Duration{2 * time.Second, attemptDelay, attemptDelay} {
		began := time.Now()
		conn, err := d.dial(within(t), "tcp", "registry.test:"+port)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if took := time.Since(began); took > most {
			t.Errorf("connection %d took %v", i, took)
		}
	}
}

// TestSilentProxy: the time-out for connecting bounds what a proxy does, too,
// and bounds no transfer through it.
func TestSilentProxy(t *testing.T) {
	t.Parallel()
	l, port := listen(t, "127.0.0.1:0")
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { io.Copy(io.Discard, conn); conn.Close() })
		}
	})
	t.Cleanup(open.Wait)
	t.Cleanup(func() { l.Close() })
	for _, scheme := range []string{"http", "https", "socks5"} {
		client := newFixture(t, "https://registry.example", reaching(), func(o *Options) {
			o.ConnectTimeout = 200 * time.Millisecond
			o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(scheme + "://127.0.0.1:" + port) }
		})
		_, err := client.GetManifest(within(t), repo, "latest")
		if e := wantKind(t, err, Unreachable); !e.Temporary() {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// TestTransferThroughAProxy takes longer than connecting may.
func TestTransferThroughAProxy(t *testing.T) {
	t.Parallel()
	for name, tls := range map[string]bool{"CONNECT": true, "forward": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := fakehub.Start(t, fakehub.Options{TLS: tls, Names: fakehub.DockerHub(), Anonymous: true})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
			proxy := newProxy(t, hub.Addr(fakehub.RoleRegistry))
			const most = 500 * time.Millisecond
			client := newFixture(t, hub.RegistryURL(), through(t, proxy.Server), reaching(), trusted(hub.CAPEM()), func(o *Options) { o.ConnectTimeout = most })
			hub.Script(fakehub.Always(&fakehub.Fault{Delay: 2 * most}))
			b, err := client.OpenBlob(within(t), repo, image.Layers[0].Digest, 0, -1)
			readBlob(t, b, err)
		})
	}
}
