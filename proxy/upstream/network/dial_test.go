package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/advice"
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
				if err := checkAddr("host", netip.MustParseAddr(a), nil); !errors.Is(err, ErrRefused) {
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

// TestEveryRangeIsTried tests the first and last address of each range of the
// filter.
func TestEveryRangeIsTried(t *testing.T) {
	t.Parallel()
	for _, p := range special {
		last := p.Masked().Addr().AsSlice()
		for i := p.Bits(); i < p.Addr().BitLen(); i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, a := range []netip.Addr{p.Addr(), end} {
			if err := checkAddr("host", a, nil); !errors.Is(err, ErrRefused) {
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
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s with %v: got %v, want it passed: %t", tt.addr, tt.allowed, err, tt.ok)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	n := &Network{}
	for address, ok := range map[string]bool{
		"8.8.8.8:443": true, "[2606:4700::1]:443": true, "127.0.0.1:443": false, "[fe80::1%eth0]:443": false,
		"docker.io:443": false, "8.8.8.8": false, "": false,
	} {
		if err := n.control("host")("tcp", address, nil); (err == nil) != ok || err != nil && !errors.Is(err, ErrRefused) {
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
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s with %v: got %v, want it passed: %t", tt.url, tt.allowed, err, tt.ok)
		}
	}
}

func TestHostPort(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://Proxy.test":      "proxy.test:80",
		"http://proxy.test:3128": "proxy.test:3128",
		"https://proxy.test":     "proxy.test:443",
		"socks5://10.0.0.1":      "10.0.0.1:1080",
		"socks5h://[::1]":        "[::1]:1080",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := HostPort(u); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// TestRace: a dead address delays the next one by attemptDelay, one that refuses
// does not delay it, and no connection but the first is left open.
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

// closing is a connection that counts itself down when it is closed.
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

// blackhole occupies an address that does not answer: its backlog is full, so
// that the kernel ignores further connections.
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
	for unanswered := 0; unanswered < 2; { // once may be the machine
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			unanswered++
			continue
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// TestDeadAddresses: three of the four addresses of a name are dead. The fourth
// is found within the time-out, and is tried first from then on: no connection that
// tries the dead ones first is made within attemptDelay.
func TestDeadAddresses(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	addrs := []netip.Addr{}
	for _, dead := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		blackhole(t, dead+":"+port)
		addrs = append(addrs, netip.MustParseAddr(dead))
	}
	n := New(Options{PrivateCIDRs: prefixes("127.0.0.0/8"), ConnectTimeout: testkit.Patience})
	n.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return append(slices.Clip(addrs), netip.MustParseAddr("127.0.0.1")), nil
	}
	takes := func() time.Duration {
		began := time.Now()
		conn, err := n.dial(t.Context(), "tcp", "registry.test:"+port)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		return time.Since(began)
	}
	if took := takes(); took < attemptDelay || took > testkit.Patience/4 {
		t.Errorf("the first connection took %v", took)
	}
	testkit.Eventually(t, "the address that answered is tried first", func() bool { return takes() < attemptDelay })
}

// TestPrivateAddressIsExplained shows that the error names the host, its address
// and the variable that allows it, and that of a special address that is not
// private none is proposed.
func TestPrivateAddressIsExplained(t *testing.T) {
	err := checkAddr("registry.lan", netip.MustParseAddr("10.20.0.5"), nil)
	if text := advice.PrivateAddress("registry.lan", netip.MustParseAddr("10.20.0.5")); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want %s", err, text)
	}
	if err := checkAddr("registry.lan", netip.MustParseAddr("169.254.169.254"), nil); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "CIDRS=") {
		t.Errorf("a metadata service: %v", err)
	}
}
