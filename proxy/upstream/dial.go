package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hubcap/proxy/advice"
	"hubcap/proxy/memory"
)

// special are the addresses at which no registry, token service or CDN may be
// unless the operator allows it: this host, private networks, metadata services
// of clouds, and what is no host. Most are from the registries of
// special-purpose addresses (RFC 6890).
var special = prefixes(
	"0.0.0.0/8",        // this network
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT, and a metadata service at 100.100.100.200
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // a metadata service
	"169.254.0.0/16",   // link-local, and metadata services
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments, and a metadata service at 192.0.0.192
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and broadcast
	"::/96",            // unspecified, loopback, IPv4-compatible
	"::ffff:0:0:0/96",  // IPv4-translated
	"64:ff9b:1::/48",   // NAT64 of the site's own
	"100::/64",         // discard
	"2001::/32",        // Teredo
	"2001:db8::/32",    // documentation
	"fc00::/7",         // private, and a metadata service at fd00:ec2::254
	"fe80::/10",        // link-local
	"fec0::/10",        // site-local
	"ff00::/8",         // multicast
)

// Prefixes whose addresses embed the IPv4 address of the real target.
var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToFo = netip.MustParsePrefix("2002::/16")
)

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// checkAddr returns an error for a special address, of the given host, that is in
// none of the allowed ranges.
func checkAddr(host string, addr netip.Addr, allowed []netip.Prefix) error {
	addr = embedded(addr.Unmap().WithZone(""))
	for _, p := range allowed {
		if p.Contains(addr) {
			return nil
		}
	}
	if addr.IsPrivate() || addr.IsLoopback() {
		return fmt.Errorf("%w: %s", errRefused, advice.PrivateAddress(host, addr))
	}
	for _, p := range special {
		if p.Contains(addr) {
			return fmt.Errorf("%w: %s lies in %s, which HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS does not allow for this upstream", errRefused, addr, p)
		}
	}
	return nil
}

// embedded returns the IPv4 address in a NAT64 or 6to4 one, or else addr.
func embedded(addr netip.Addr) netip.Addr {
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFo.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	default:
		return addr
	}
}

// attemptDelay is how long one address has to answer before the next one is tried
// too: the Connection Attempt Delay of RFC 8305, section 5.
const attemptDelay = 250 * time.Millisecond

// dialer connects to allowed addresses only: it checks the resolved address at
// the moment of connecting, so that a name cannot change in between.
type dialer struct {
	allowed  []netip.Prefix
	timeout  time.Duration // for one connection, over all addresses; and for an outgoing proxy's part
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	answered *memory.Memory[string, netip.Addr] // the address that a host:port was last connected at
	proxies  sync.Map                           // host:port of outgoing proxies, whose addresses are exempt
}

func newDialer(allowed []netip.Prefix, timeout time.Duration) *dialer {
	return &dialer{
		allowed: allowed, timeout: timeout, lookup: net.DefaultResolver.LookupNetIP,
		answered: memory.New[string, netip.Addr](hostsKept, nil),
	}
}

// dial connects to the address that answers first. net.Dialer divides its time-out
// between the addresses of a family and tries one after the other, so that a few
// dead ones take all of it.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs, err := d.lookup(ctx, "ip", host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	nd := net.Dialer{KeepAlive: 30 * time.Second}
	_, proxy := d.proxies.Load(address)
	if !proxy {
		nd.Control = d.control(host)
	}
	last, _ := d.answered.Get(address)
	conn, at, err := race(ctx, inTurn(addrs, last), func(ctx context.Context, at netip.Addr) (net.Conn, error) {
		return nd.DialContext(ctx, network, net.JoinHostPort(at.String(), port))
	})
	if err != nil {
		return nil, err
	}
	d.answered.Keep(address, at)
	if proxy {
		d.bound(ctx, conn)
	}
	return conn, nil
}

// inTurn returns addresses in the order in which they are tried: the one that last
// answered, if it is among them, then the families alternately (RFC 8305, section
// 4), each in the resolver's order.
func inTurn(addrs []netip.Addr, last netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if first := addrs[0].Unmap(); a.Is4() == first.Is4() {
			families[0] = append(families[0], a)
		} else {
			families[1] = append(families[1], a)
		}
	}
	var all []netip.Addr
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				all = append(all, f[i])
			}
		}
	}
	if i := slices.Index(all, last); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, last)
	}
	return all
}

// race connects to one address after the other, without waiting longer than
// attemptDelay, and returns the first connection; others are closed. The error is
// that of the address that failed first.
func race(ctx context.Context, addrs []netip.Addr, connect func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type attempt struct {
		conn net.Conn
		at   netip.Addr
		err  error
	}
	ended := make(chan attempt, len(addrs))
	first := error(&net.OpError{Op: "dial", Err: errors.New("the name has no address")})
	for begun, failed := 0, 0; failed < len(addrs); {
		var slow <-chan time.Time
		if begun < len(addrs) {
			go func(at netip.Addr) {
				conn, err := connect(ctx, at)
				ended <- attempt{conn, at, err}
			}(addrs[begun])
			begun++
			slow = time.After(attemptDelay)
		}
		select {
		case <-slow:
		case a := <-ended:
			if a.err == nil {
				go func() {
					for range begun - failed - 1 {
						if late := <-ended; late.err == nil {
							_ = late.conn.Close()
						}
					}
				}()
				return a.conn, a.at, nil
			}
			if failed++; failed == 1 {
				first = a.err
			}
		}
	}
	return nil, netip.Addr{}, first
}

// proxyConnKey is the context key of a request's proxyConn.
type proxyConnKey struct{}

// proxyConn is the connection to an outgoing proxy that was made for a request.
type proxyConn struct{ conn atomic.Pointer[net.Conn] }

// bound sets the time-out as the deadline for a proxy to answer CONNECT or to
// speak SOCKS: net/http waits a minute for CONNECT, and without end for SOCKS.
// tunnelled and unbound lift it.
func (d *dialer) bound(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(d.timeout))
	if t, ok := ctx.Value(proxyConnKey{}).(*proxyConn); ok {
		t.conn.Store(&conn)
	}
}

// tunnelled lifts the deadline when the proxy has opened the tunnel: what follows
// is the TLS handshake, which http.Transport bounds.
func tunnelled(ctx context.Context, _ *url.URL, _ *http.Request, _ *http.Response) error {
	if t, ok := ctx.Value(proxyConnKey{}).(*proxyConn); ok {
		if conn := t.conn.Load(); conn != nil {
			return (*conn).SetDeadline(time.Time{})
		}
	}
	return nil
}

// unbound lifts the deadlines of connections that requests get. Two connections
// may be made for one request, of which tunnelled knows one.
type unbound struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (u unbound) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := context.WithValue(req.Context(), proxyConnKey{}, new(proxyConn))
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { _ = got.Conn.SetDeadline(time.Time{}) },
	})
	return u.base.RoundTrip(req.WithContext(ctx))
}

// control checks the address of a host before a connection is made.
func (d *dialer) control(host string) func(_, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s is no address", errRefused, address)
		}
		return checkAddr(host, at.Addr(), d.allowed)
	}
}

// through wraps the choice of an outgoing proxy: the proxy's address becomes
// exempt, and the target is checked by name, because the proxy resolves it.
func (d *dialer) through(choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		proxy, err := choose(req)
		if err != nil {
			return nil, err
		}
		if proxy == nil {
			if _, exempt := d.proxies.Load(proxyAddress(req.URL)); exempt {
				return nil, fmt.Errorf("%w: %s is the outgoing proxy", errRefused, req.URL.Host)
			}
			return nil, nil //nolint:nilnil // as http.Transport wants it
		}
		if err := proxiedTarget(req.URL, d.allowed); err != nil {
			return nil, err
		}
		d.proxies.Store(proxyAddress(proxy), struct{}{})
		return proxy, nil
	}
}

// proxyAddress returns what the transport dials for a proxy.
func proxyAddress(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}
