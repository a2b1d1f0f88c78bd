// Package access decides who may see what: which addresses may pull at all, how
// a repository is shown, with which identity it is asked for, and which tokens
// and links give access to restricted content. It knows addresses, repositories
// and digests; it knows neither URLs nor what is cached.
//
// Files: clients.go, gateway.go and refusals.go (addresses), visibility.go (how a repository
// is shown), identity.go (the box's credentials, for public content only),
// grants.go (which tokens may pull), links.go (which repositories have a blob),
// notfound.go (how much a client may request that does not exist).
package access

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Clients are the addresses that may pull, and the proxies that are trusted to
// name the addresses behind them.
type Clients struct {
	allowed, proxies []netip.Prefix
}

// NewClients returns Clients that allow the given ranges and trust the proxies.
func NewClients(allowed, proxies []netip.Prefix) Clients {
	return Clients{slices.Clone(allowed), slices.Clone(proxies)}
}

// Behind returns the address of the client behind a connection; remote is the
// peer's address as in http.Request. It is the peer's, unless the peer is a
// trusted proxy. Then it is the last address in X-Forwarded-For that is not a
// trusted proxy's: a trusted proxy has seen that one itself, while those before
// it may have been written by the client. The result is invalid if the header
// is malformed.
func (c Clients) Behind(remote string, forwarded []string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	addr := plain(at.Addr())
	if len(forwarded) == 0 || len(c.proxies) == 0 {
		return addr
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for len(hops) > 0 && contains(c.proxies, addr) {
		last := strings.TrimSpace(hops[len(hops)-1])
		hops = hops[:len(hops)-1]
		if addr, err = netip.ParseAddr(last); err != nil {
			return netip.Addr{}
		}
		addr = plain(addr)
	}
	return addr
}

// Allow reports whether a client may pull.
func (c Clients) Allow(client netip.Addr) bool {
	return client.IsValid() && contains(c.allowed, client)
}

func contains(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// plain returns an address in the form that ranges are written in.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// local are the ranges that are not routed on the internet.
var local = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// DefaultClients returns the ranges that are not routed on the internet, and the
// networks that this host is connected to.
func DefaultClients() []netip.Prefix {
	all := slices.Clone(local)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return all // enough for most sites
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		inside := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if p = p.Masked(); !slices.ContainsFunc(all, inside) {
			all = append(all, p)
		}
	}
	return all
}
