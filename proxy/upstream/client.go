// Package upstream asks registries. It knows their protocol, token services,
// redirects and failures, and keeps credentials to the hosts that may have them.
// It knows nothing of hubcap's clients, of the cache, or of what a tag meant
// before.
//
// A registry's name is looked up in a Set and never dialled; a token service is
// asked only if it is on its registry's list; private and special addresses are
// not connected to unless the operator allows their range.
//
// To be read in this order:
//   - set.go (the registries that may be asked, and the rules for each), client.go
//     (one registry under one identity), presets.go, status.go (what operators are
//     told of it);
//   - what is asked: manifests.go, blobs.go, lists.go (tags, referrers), with
//     mediatype.go and encoding.go, probe.go (whether it answers at all); send.go (how a request is sent and followed
//     within the registry, and for how long its body may stall);
//   - which authorization it carries: auth.go, challenge.go, tokens.go, login.go
//     (the box's credentials), relay.go (a client's own token), guard.go (where
//     credentials and redirects may lead);
//   - whether it is sent now: retry.go, breaker.go with hosts.go, circuit.go and
//     backoff.go (the hosts' state), offline.go, budget.go and foreign.go (the pull limit, and
//     who else uses it);
//   - what a failure means: error.go, refusal.go.
//
// Rooms of its own have network (connections, addresses, certificates) and
// credentials (where the box's come from).
package upstream

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/credentials"
	"hubcap/proxy/upstream/network"
)

// Options configure a Client. All are required, except Login, TokenHosts,
// PrivateCIDRs, CAFiles and Offline.
type Options struct {
	Label string   // the configured host or pattern: for logs and metrics
	URL   *url.URL // of the registry: what precedes /v2/
	credentials.Login
	TokenHosts   []string // besides the registry's own, in the spelling of TokenHost
	PrivateCIDRs []netip.Prefix
	CAFiles      []*network.CAFile // authorities trusted besides the system's

	ConnectTimeout time.Duration // each: for a connection to any of a name's addresses, for an outgoing proxy's part, for the TLS handshake
	HeaderTimeout  time.Duration
	StallTimeout   time.Duration // for the next byte of a body
	TryAgain       time.Duration // how long a circuit stays open before one request tests the host
	Offline        *Offline      // keeps requests from being sent; nil where nothing does

	Proxy       func(*http.Request) (*url.URL, error) // chooses the outgoing proxy
	UserAgent   string
	MaxManifest int64 // bytes
	Now         func() time.Time
	Metrics     *metrics.Upstreams
	Log         *slog.Logger

	hosts    *hosts    // shared by the clients of one upstream; a client's own when nil
	upstream *Upstream // nil outside a Set
}

// Client asks one registry under one identity. It shares no tokens with other
// clients, so that none is used under another identity.
type Client struct {
	o         Options
	identity  string
	login     *login  // nil without credentials
	caller    *caller // on whose behalf it asks; nil for the box
	tokens    *tokens
	locations *memory.Memory[string, *url.URL] // where blobs are, by repository@digest
	header    http.Header                      // of every request
	http      *http.Client
	guard     *guard
	budget    *budget
	network   *network.Network
	metrics   *metrics.Upstream
}

// NewClient returns a client with the options' credentials, if there are any.
func NewClient(o Options) *Client {
	identity := identityAnonymous
	if o.LogsIn() {
		identity = identityCredentials
	}
	return newClient(o, identity)
}

func newClient(o Options, identity string) *Client {
	m := o.Metrics.Of(o.Label, identity)
	if o.hosts == nil {
		o.hosts = newHosts(o)
	}
	limit := newBudget(o.Now)
	net := o.network(m)
	var base http.RoundTripper = &spender{
		base: net, registry: o.URL, spending: &o.hosts.spending, budget: limit, metrics: m, client: identity == identityClient,
	}
	base = &gate{o.Offline, base}
	g := &guard{Options: o, metrics: m, base: withRetries(&breaker{base: base, hosts: o.hosts, budget: limit, metrics: m})}
	c := &Client{
		o: o, identity: identity, network: net, budget: limit, tokens: newTokens(o.Now), metrics: m,
		guard: g, http: &http.Client{Transport: g, CheckRedirect: g.checkRedirect},
		header:    http.Header{"User-Agent": {o.UserAgent}, "Accept-Encoding": {"identity"}},
		locations: memory.New[string, *url.URL](locationsKept, o.Now),
	}
	if o.LogsIn() {
		c.login = newLogin(o, m, net.RootCAs)
	}
	return c
}

// network returns what connects to the hosts, and counts the requests.
func (o Options) network(m *metrics.Upstream) *network.Network {
	return network.New(network.Options{
		PrivateCIDRs: o.PrivateCIDRs, CAFiles: o.CAFiles, ConnectTimeout: o.ConnectTimeout, HeaderTimeout: o.HeaderTimeout,
		Proxy: o.Proxy, Now: o.Now, Metrics: m, Log: o.Log,
	})
}

// Trouble returns what of the registry is down: hosts that accept no connection,
// fail their health check or have an open circuit, and those that have answered
// 429 with a wait above longest. A single failing object is no trouble.
func (c *Client) Trouble(longest time.Duration) Trouble {
	if c.o.Offline.On() {
		return Trouble{Registry: true, Blobs: true}
	}
	return c.o.hosts.trouble(longest)
}

// Failing reports whether the registry or its token service is in trouble.
func (c *Client) Failing(longest time.Duration) bool { return c.Trouble(longest).Registry }

// Credentials reports whether the client has the box's credentials.
func (c *Client) Credentials() bool { return c.login != nil }

// Grants reports whether the token last fetched for the repository itself says
// that it may be pulled. Opaque tokens do not say.
func (c *Client) Grants(repository string) bool { return c.tokens.grants(repository) }
