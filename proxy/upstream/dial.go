package upstream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// inside are the addresses that a registry, its token service and its CDN
// have no business at: this host, the site's own networks, the cloud's
// metadata services, and what is no host at all. Most are from the registries
// of special-purpose addresses of RFC 6890.
var inside = prefixes(
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

// Prefixes whose addresses carry an IPv4 address that is the real target.
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

// checkAddr refuses an address of the inside that is in none of the allowed
// ranges.
func checkAddr(addr netip.Addr, allowed []netip.Prefix) error {
	addr = embedded(addr.Unmap().WithZone(""))
	for _, p := range allowed {
		if p.Contains(addr) {
			return nil
		}
	}
	for _, p := range inside {
		if p.Contains(addr) {
			return fmt.Errorf("%w: %s lies in %s, which HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS does not allow for this upstream", errRefused, addr, p)
		}
	}
	return nil
}

// embedded is the IPv4 address inside a NAT64 or 6to4 one.
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

// dialer connects where the filter lets it: it looks at the resolved address
// at the moment of connecting, when a name can no longer change its meaning.
type dialer struct {
	allowed []netip.Prefix
	timeout time.Duration
	proxies sync.Map // host:port of outgoing proxies; their addresses are exempt
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.timeout, KeepAlive: 30 * time.Second}
	if _, exempt := d.proxies.Load(address); !exempt {
		nd.Control = d.control
	}
	return nd.DialContext(ctx, network, address)
}

func (d *dialer) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s is no address", errRefused, address)
	}
	return checkAddr(at.Addr(), d.allowed)
}

// through wraps the choice of an outgoing proxy: the proxy's address is noted
// as exempt, and the target is checked by name, because the proxy resolves
// it.
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

// proxyAddress is what the transport dials for a proxy.
func proxyAddress(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}
