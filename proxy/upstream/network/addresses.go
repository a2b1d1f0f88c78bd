package network

import (
	"errors"
	"fmt"
	"hubcap/proxy/advice"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// ErrRefused says that hubcap did not connect to where a name or a registry
// leads.
var ErrRefused = errors.New("refused")

// HostPort returns the host and port that u addresses, as a registry or as an
// outgoing proxy, in one spelling.
func HostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

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
	if slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return nil
	}
	if addr.IsPrivate() || addr.IsLoopback() {
		return fmt.Errorf("%w: %s", ErrRefused, advice.PrivateAddress(host, addr))
	}
	for _, p := range special {
		if p.Contains(addr) {
			return fmt.Errorf("%w: %s lies in %s, which HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS does not allow for this upstream", ErrRefused, addr, p)
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

// proxiedTarget checks by name what an outgoing proxy will resolve, since the
// dial filter sees only the proxy's address.
func proxiedTarget(u *url.URL, allowed []netip.Prefix) error {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return checkAddr(host, addr, allowed)
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || !strings.Contains(host, ".") ||
		strings.HasSuffix(host, ".internal") && len(allowed) == 0 {
		return fmt.Errorf("%w: %s is a name of the internal network", ErrRefused, host)
	}
	return nil
}
