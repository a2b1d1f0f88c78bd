// Package access says who may see what: which addresses may pull at all, how a
// repository is shown, under which identity it is asked for, and which tokens
// and links open what is not for everybody. It knows addresses, repositories
// and digests; it knows neither URLs nor what is cached.
//
// Files: clients.go (addresses), visibility.go (how a repository is shown),
// identity.go (the box's credentials serve public content only), grants.go
// (which tokens were let in), links.go (which repositories have a blob).
package access

import (
	"net"
	"net/netip"
	"slices"
)

// Clients are the addresses that may pull.
type Clients struct {
	allowed []netip.Prefix
}

// NewClients allows the given ranges.
func NewClients(allowed []netip.Prefix) Clients { return Clients{slices.Clone(allowed)} }

// Allow tells whether the peer of a connection, as net/http names it, may
// pull.
func (c Clients) Allow(remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(c.allowed, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// local are the ranges of addresses that are not of the internet.
var local = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// DefaultClients are the ranges that are not of the internet, and the
// networks that this host is connected to.
func DefaultClients() []netip.Prefix {
	all := slices.Clone(local)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return all // the fixed ranges are what most sites need
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
