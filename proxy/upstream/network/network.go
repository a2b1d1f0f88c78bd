// Package network carries requests to hosts. It connects to allowed addresses
// only, also where an outgoing proxy connects for it, trusts certificate
// authorities whose files may change, and replaces connections that died while
// they were idle. It knows nothing of registries, and adds nothing to a request.
//
// Files: network.go (a request and its connection), dial.go (which of a name's
// addresses is connected to, outgoing proxies), addresses.go (which may be),
// authorities.go (certificates), transport.go (requests under those trusted now), ranges.go (parts of
// a body).
package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/memory"
)

// Options configure a Network. All are required, except PrivateCIDRs and
// CAFiles.
type Options struct {
	PrivateCIDRs   []netip.Prefix                        // special addresses that may be connected to
	CAFiles        []*CAFile                             // authorities trusted besides the system's
	ConnectTimeout time.Duration                         // each: for a connection to any of a name's addresses, for an outgoing proxy's part, for the TLS handshake
	HeaderTimeout  time.Duration                         // for the headers of an answer
	Proxy          func(*http.Request) (*url.URL, error) // chooses the outgoing proxy
	Now            func() time.Time
	Metrics        *metrics.Upstream
	Log            *slog.Logger
}

// Network is an http.RoundTripper. Its methods are safe for concurrent use.
type Network struct {
	Options
	trust    time.Duration // trustIdle
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	answered *memory.Memory[string, netip.Addr] // the address that a host:port was last connected at
	proxies  sync.Map                           // host:port of outgoing proxies, whose addresses are exempt

	transport *Transport

	mu      sync.Mutex
	version int            // of all CAFiles together, when roots was made
	roots   *x509.CertPool // nil before, and without CAFiles
}

// hostsKept bounds how many hosts' addresses are remembered: an upstream chooses
// where it redirects to.
const hostsKept = 64

// New returns a Network without connections.
func New(o Options) *Network {
	n := &Network{
		Options: o, trust: trustIdle, lookup: net.DefaultResolver.LookupNetIP,
		answered: memory.New[string, netip.Addr](hostsKept, nil),
	}
	n.transport = NewTransport(n.RootCAs, n.newTransport)
	return n
}

// Address returns the address at which a host:port was last connected; ok is
// false for none, and behind an outgoing proxy.
func (n *Network) Address(hostPort string) (addr netip.Addr, ok bool) {
	return n.answered.Get(hostPort)
}

// newTransport returns what sends requests under the authorities. HTTP/1.1 only:
// several transfers of one blob add up only over several connections, and
// HTTP/1.1 takes less work a byte. Nothing is decompressed: digests are of the
// bytes as sent.
func (n *Network) newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:       n.through,
		DialContext: n.dial,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(0), // resumes sessions; 0 is its default, 64 hosts
		},
		OnProxyConnectResponse: tunnelled,
		TLSHandshakeTimeout:    n.ConnectTimeout,
		ResponseHeaderTimeout:  n.HeaderTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// trustIdle is how long a connection may be idle and still be expected to work.
// Firewalls and NAT drop idle connections without telling either end.
const trustIdle = 5 * time.Second

// errDeadConnection says that no answer came over a connection that was idle.
var errDeadConnection = errors.New("no answer over a connection that was idle")

// RoundTrip implements http.RoundTripper. It sends GET and HEAD again, once and
// over a new connection, if no answer comes over one that was used before: that
// shows nothing about the host. One that was idle for longer than trustIdle has
// ConnectTimeout for the headers; a host that is merely slow is asked twice. All
// idle connections are closed then, since they are likely dead too.
func (n *Network) RoundTrip(req *http.Request) (*http.Response, error) {
	again := (req.Method == http.MethodGet || req.Method == http.MethodHead) && (req.Body == nil || req.Body == http.NoBody)
	resp, err, dead := n.send(req, again)
	if dead {
		n.transport.CloseIdleConnections()
		resp, err, _ = n.send(req, false)
	}
	return resp, err
}

// send sends a request and counts it. If it may be sent again, dead reports
// whether its connection has probably died while it was idle.
func (n *Network) send(req *http.Request, again bool) (resp *http.Response, err error, dead bool) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &idleWatch{trust: n.trust, timeout: n.ConnectTimeout, expired: func() { cancel(errDeadConnection) }}
	ctx = context.WithValue(ctx, proxyConnKey{}, new(atomic.Pointer[net.Conn]))
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		// A proxy's part is done. Two connections may be made for one request, of
		// which tunnelled knows one.
		_ = got.Conn.SetDeadline(time.Time{})
		if again {
			w.begin(got)
		}
	}})
	resp, err = n.transport.RoundTrip(req.WithContext(ctx))
	n.count(resp, err)
	reused := w.end()
	dead = errors.Is(context.Cause(ctx), errDeadConnection)
	if err == nil && !dead {
		resp.Request = req
		resp.Body = &cancelling{resp.Body, cancel}
		return resp, nil, false
	}
	if err == nil {
		resp.Body.Close() // the answer came too late: its context has ended
	}
	cancel(nil)
	var timeout net.Error
	dead = dead || reused && req.Context().Err() == nil && errors.As(err, &timeout) && timeout.Timeout()
	return nil, err, dead
}

func (n *Network) count(resp *http.Response, err error) {
	if err == nil {
		n.Metrics.Request(metrics.ClassOf(resp.StatusCode))
		return
	}
	n.Metrics.Request(metrics.ClassNoAnswer)
	if errors.Is(err, ErrRefused) {
		n.Metrics.Blocked()
	}
}

// idleWatch watches whether headers come over a connection that was idle.
type idleWatch struct {
	trust   time.Duration
	timeout time.Duration
	expired func()

	mu     sync.Mutex
	timer  *time.Timer // nil where the connection is trusted
	reused bool
	over   bool
}

// begin takes the connection. It may be called late, and more than once.
func (w *idleWatch) begin(conn httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reused = conn.Reused
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if conn.Reused && conn.IdleTime >= w.trust && !w.over {
		w.timer = time.AfterFunc(w.timeout, w.expired)
	}
}

// end ends the watch. It reports whether the connection was used before.
func (w *idleWatch) end() (reused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	return w.reused
}

// cancelling is a body whose request's context ends when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c *cancelling) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}
