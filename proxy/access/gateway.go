package access

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// gatewayAfter is how many requests from one address, and none from another,
// look like a gateway.
const gatewayAfter = 1000

// Gateway looks for a site whose clients all seem to have one address: there
// is something between them and hubcap, and HUBCAP_ALLOW_CLIENTS says nothing
// about them.
type Gateway struct {
	log   *slog.Logger
	only  atomic.Pointer[netip.Addr] // the one so far
	seen  atomic.Int64               // requests from it
	ended atomic.Bool                // there is another one, or it was said
}

// NewGateway has seen nobody yet.
func NewGateway(log *slog.Logger) *Gateway { return &Gateway{log: log} }

// Saw notes a request.
func (g *Gateway) Saw(client netip.Addr) {
	if g.ended.Load() || client.IsLoopback() {
		return
	}
	if g.only.CompareAndSwap(nil, &client) || *g.only.Load() == client {
		if g.seen.Add(1) == gatewayAfter && client.IsPrivate() && g.ended.CompareAndSwap(false, true) {
			g.log.Warn("every request so far comes from one address: if that is a gateway or a proxy, HUBCAP_ALLOW_CLIENTS cannot tell the clients behind it apart; HUBCAP_TRUSTED_PROXIES names proxies that can",
				"client", client.String(), "requests", gatewayAfter)
		}
		return
	}
	g.ended.Store(true)
}
