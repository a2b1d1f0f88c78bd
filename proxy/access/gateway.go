package access

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// gatewayAfter is how many requests from a single address suggest a gateway.
const gatewayAfter = 1000

// Gateway detects a site of which all clients seem to have one address. There is
// then a gateway or proxy before hubcap, and HUBCAP_ALLOW_CLIENTS does not
// distinguish the clients behind it. Its methods are safe for concurrent use.
type Gateway struct {
	log     *slog.Logger
	first   atomic.Pointer[netip.Addr] // the address of the first request
	seen    atomic.Int64               // requests from it
	decided atomic.Bool                // another address was seen, or the warning was logged
	suspect atomic.Bool                // the warning was logged
}

// NewGateway returns a Gateway that has seen no request.
func NewGateway(log *slog.Logger) *Gateway { return &Gateway{log: log} }

// Saw records a request.
func (g *Gateway) Saw(client netip.Addr) {
	if g.decided.Load() || client.IsLoopback() {
		return
	}
	if !g.first.CompareAndSwap(nil, &client) && *g.first.Load() != client {
		g.decided.Store(true)
		return
	}
	if g.seen.Add(1) == gatewayAfter && client.IsPrivate() && g.decided.CompareAndSwap(false, true) {
		g.suspect.Store(true)
		g.log.Warn("every request so far comes from one address: if that is a gateway or a proxy, HUBCAP_ALLOW_CLIENTS cannot tell the clients behind it apart; HUBCAP_TRUSTED_PROXIES names proxies that can",
			"client", client.String(), "requests", gatewayAfter)
	}
}

// Suspect returns the address of a suspected gateway, from which the first
// gatewayAfter requests came; ok is false if there is none.
func (g *Gateway) Suspect() (client netip.Addr, ok bool) {
	if !g.suspect.Load() {
		return netip.Addr{}, false
	}
	return *g.first.Load(), true
}
