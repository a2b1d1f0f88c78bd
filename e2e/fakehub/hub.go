package fakehub

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Hub is a running stand-in for Docker Hub. Make one with Start or New.
type Hub struct {
	ctx     context.Context // ends with Close and releases hanging handlers
	cancel  context.CancelFunc
	options atomic.Pointer[Options]
	script  atomic.Pointer[Script]
	setting sync.Mutex // serialises Set

	store   store
	tokens  tokens
	limits  rateLimits
	log     requestLog
	conns   connections
	total   pacer        // of Options.Bandwidth
	senders atomic.Int64 // blob bodies being sent
	urlKey  []byte       // signs blob URLs
	handled atomic.Int64 // handlers running

	ca        *authority // nil without TLS
	listeners []net.Listener
	servers   []*http.Server
	serving   sync.WaitGroup
	urls      map[Role]string
	client    *http.Client
}

// Start starts a Hub that is closed when the test ends.
func Start(tb testing.TB, options Options) *Hub {
	tb.Helper()
	h, err := New(options)
	if err != nil {
		tb.Fatalf("fakehub: %v", err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Errorf("fakehub: %v", err)
		}
	})
	return h
}

// New starts a Hub. The caller must Close it.
func New(options Options) (*Hub, error) {
	o := options.withDefaults()
	h := &Hub{urls: map[Role]string{}, urlKey: randomKey()}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.options.Store(&o)
	h.store.init()
	h.tokens.init()
	h.limits.reset()
	h.conns.init()
	if err := h.listen(&o); err != nil {
		h.cancel()
		for _, l := range h.listeners {
			l.Close()
		}
		return nil, err
	}
	h.client = h.newClient()
	for _, s := range h.servers {
		h.serving.Go(func() { h.run(s) })
	}
	return h, nil
}

// randomKey returns 32 random bytes.
func randomKey() []byte {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return key
}

// listen makes the listeners, the certificate for them and their servers.
func (h *Hub) listen(o *Options) error {
	groups := [][]Role{{RoleRegistry}, {RoleToken}, {RoleCDN}}
	if o.named() {
		groups = [][]Role{{RoleRegistry, RoleToken, RoleCDN}}
	}
	for _, roles := range groups {
		l, err := listenFor(o, roles[0])
		if err != nil {
			return err
		}
		l = &listener{Listener: l, conns: &h.conns, roles: roles}
		h.listeners = append(h.listeners, l)
		for _, role := range roles {
			h.urls[role] = baseURL(o, role, l.Addr().String())
		}
	}
	if o.TLS {
		ca, err := newAuthority(h.hostNames(o))
		if err != nil {
			return err
		}
		h.ca = ca
	}
	for i := range h.listeners {
		h.servers = append(h.servers, h.newServer(o, groups[i]))
	}
	return nil
}

// listenFor makes the listener whose first role is given.
func listenFor(o *Options, role Role) (net.Listener, error) {
	switch {
	case o.named():
		return o.Listen("tcp", o.Addr)
	case role == RoleCDN:
		// Clients compare hosts without ports when they decide whether a
		// redirect may see their token, so the CDN needs another host.
		if l, err := o.Listen("tcp", "127.0.0.2:0"); err == nil {
			return l, nil
		} // only Linux has all of 127.0.0.0/8
	}
	return o.Listen("tcp", "127.0.0.1:0")
}

// baseURL returns the address under which clients reach a role that listens on
// addr.
func baseURL(o *Options, role Role, addr string) string {
	scheme, standard := "http", "80"
	if o.TLS {
		scheme, standard = "https", "443"
	}
	if !o.named() {
		return scheme + "://" + addr
	}
	name := map[Role]string{RoleRegistry: o.Names.Registry[0], RoleToken: o.Names.Token, RoleCDN: o.Names.CDN}[role]
	if _, port, err := net.SplitHostPort(addr); err == nil && port != standard {
		name = net.JoinHostPort(name, port)
	}
	return scheme + "://" + name
}

// hostNames returns the names and addresses that the certificate must cover.
func (h *Hub) hostNames(o *Options) []string {
	names := []string{"localhost", "127.0.0.1", "127.0.0.2", "::1"}
	for _, l := range h.listeners {
		if host, _, err := net.SplitHostPort(l.Addr().String()); err == nil {
			names = append(names, host)
		}
	}
	if o.named() {
		names = append(names, o.Names.Registry...)
		names = append(names, o.Names.Token, o.Names.CDN)
	}
	return names
}

// newServer makes the server of one listener.
func (h *Hub) newServer(o *Options, roles []Role) *http.Server {
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			role := roles[0]
			if len(roles) > 1 {
				role = h.roleOf(r.Host)
			}
			h.serve(role, w, r)
		}),
		ErrorLog:    log.New(io.Discard, "", 0), // tests break connections on purpose
		BaseContext: func(net.Listener) context.Context { return h.ctx },
		ConnContext: h.conns.context,
		ConnState:   h.conns.state,
		Protocols:   new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(o.HTTP2)
	if h.ca != nil {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{h.ca.leaf}}
	}
	return s
}

// roleOf returns the role that a Host header names; "" for an unknown name.
func (h *Hub) roleOf(host string) Role {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	names := h.options.Load().Names
	switch host = strings.ToLower(host); {
	case host == strings.ToLower(names.Token):
		return RoleToken
	case host == strings.ToLower(names.CDN):
		return RoleCDN
	case slices.ContainsFunc(names.Registry, func(n string) bool { return strings.EqualFold(n, host) }),
		host == "localhost", net.ParseIP(host) != nil:
		return RoleRegistry
	}
	return ""
}

// run serves until the server is closed.
func (h *Hub) run(s *http.Server) {
	l := h.listeners[slices.Index(h.servers, s)]
	if h.ca != nil {
		s.ServeTLS(l, "", "")
		return
	}
	s.Serve(l)
}

// Close closes all listeners and connections and waits, for at most ten
// seconds, until every handler has ended. Calling it again does nothing.
func (h *Hub) Close() error {
	h.cancel()
	for _, s := range h.servers {
		s.Close()
	}
	h.serving.Wait()
	h.client.CloseIdleConnections()
	for end := time.Now().Add(10 * time.Second); h.conns.closeAll() > 0 || h.handled.Load() > 0; {
		if time.Now().After(end) {
			return errors.New("handlers or connections are still busy ten seconds after Close")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// Set changes options while the hub serves; those of the first group of Options
// (listeners, TLS, names) have no effect any more.
func (h *Hub) Set(change func(*Options)) {
	h.setting.Lock()
	defer h.setting.Unlock()
	old := h.options.Load()
	o := *old
	change(&o)
	o.TLS, o.HTTP2, o.Names, o.Addr, o.Listen = old.TLS, old.HTTP2, old.Names, old.Addr, old.Listen
	o = o.withDefaults()
	h.options.Store(&o)
}

// now returns the hub's time.
func (h *Hub) now() time.Time { return h.options.Load().Clock() }

// RegistryURL returns scheme and host of the registry, without a path.
func (h *Hub) RegistryURL() string { return h.urls[RoleRegistry] }

// TokenURL returns scheme and host of the token service; realms are
// TokenURL+"/token".
func (h *Hub) TokenURL() string { return h.urls[RoleToken] }

// CDNURL returns scheme and host of the CDN.
func (h *Hub) CDNURL() string { return h.urls[RoleCDN] }

// Host returns host and, unless it is the scheme's default, port of the
// registry.
func (h *Hub) Host() string {
	u, _ := url.Parse(h.RegistryURL()) // made by baseURL
	return u.Host
}

// Addr returns the address on which a role listens.
func (h *Hub) Addr(role Role) net.Addr {
	for _, l := range h.listeners {
		if slices.Contains(l.(*listener).roles, role) {
			return l.Addr()
		}
	}
	return nil
}

// CAPEM returns the certificate of the CA that signed the hub's own; nil
// without TLS.
func (h *Hub) CAPEM() []byte {
	if h.ca == nil {
		return nil
	}
	return slices.Clone(h.ca.pem)
}

// Client returns a client that trusts the hub's CA, uses no proxy and reaches
// the hub under its Names without a resolver. It has no token.
func (h *Hub) Client() *http.Client { return h.client }

// newClient makes the client of Client.
func (h *Hub) newClient() *http.Client {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: h.options.Load().HTTP2}
	if h.ca != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(h.ca.pem)
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	if h.options.Load().named() {
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if h.roleOf(addr) != "" {
				addr = h.listeners[0].Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	}
	return &http.Client{Transport: t}
}
