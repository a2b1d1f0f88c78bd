// Package access says who may see what: which addresses may pull at all, how a
// repository is shown, under which identity it is asked for, and which tokens
// and links open what is not for everybody. It knows addresses, repositories
// and digests; it knows neither URLs nor what is cached.
//
// Files: clients.go and gateway.go (addresses), visibility.go (how a repository is shown),
// identity.go (the box's credentials serve public content only), grants.go
// (which tokens were let in), links.go (which repositories have a blob),
// notfound.go (how much a client may request that does not exist).
package access

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Clients are the addresses that may pull, and the proxies that are believed
// about the addresses behind them.
type Clients struct {
	allowed, proxies []netip.Prefix
}

// NewClients allows the given ranges, and believes the proxies.
func NewClients(allowed, proxies []netip.Prefix) Clients {
	return Clients{slices.Clone(allowed), slices.Clone(proxies)}
}

// Behind is the address of the client behind a connection, whose peer net/http
// names remote: the peer itself, unless it is a proxy that is believed. Then
// it is the last address in X-Forwarded-For that is no such proxy, which is the
// one that a believed proxy has seen itself; what stands before it the client
// may have written. The address is invalid where that cannot be read.
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

// Allow tells whether a client may pull.
func (c Clients) Allow(client netip.Addr) bool {
	return client.IsValid() && contains(c.allowed, client)
}

func contains(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// plain is an address as ranges are written.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

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
