// Package port is a TCP port with an HTTP server: connection limits, TLS and
// shutdown. It knows addresses and certificates; it does not know what is served.
//
// Files: port.go, group.go (several that end together), limits.go (how many connections
// there may be), gather.go (bodies over TLS), certificate.go (a certificate that
// changes under a running port), plain.go (clients that speak TLS to a port without
// it), status.go.
package port

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"syscall"
	"time"

	"hubcap/metrics"
)

// Options is what a Port needs; every field but the certificate's is required.
type Options struct {
	Name        string // mirror, auth, admin: for metrics and messages
	Address     string // to listen at
	Handler     http.Handler
	CertFile    string        // PEM, of the certificate and those that vouch for it; empty for a port without TLS
	KeyFile     string        // PEM, of its key
	HeadTimeout time.Duration // for a request's head to arrive
	IdleTimeout time.Duration // for the next request of a connection
	MaxHeader   int           // bytes
	Limits      *Limits       // may be shared with other ports
	Now         func() time.Time
	Metrics     *metrics.Ports
	Log         *slog.Logger
}

// Port is a bound port. It serves between Serve and Shutdown.
type Port struct {
	name        string
	listener    net.Listener
	server      *http.Server
	certificate *certificate // nil without TLS
	plain       *plain       // nil with TLS
}

// Listen binds the port. The error is about the address or the certificate.
func Listen(o Options) (*Port, error) {
	p := &Port{
		name: o.Name,
		server: &http.Server{
			Handler:                      heard(o.Handler, o.Log),
			ConnContext:                  withConn,
			ConnState:                    moved,
			ReadHeaderTimeout:            o.HeadTimeout,
			IdleTimeout:                  o.IdleTimeout,
			MaxHeaderBytes:               o.MaxHeader,
			DisableGeneralOptionsHandler: true,
			ErrorLog:                     slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		},
	}
	if o.CertFile == "" {
		p.plain = &plain{name: o.Name, now: o.Now, log: o.Log, warned: &o.Limits.spokeTLS, wait: fallBack, trying: make(map[netip.Addr]*time.Timer)}
	} else {
		var err error
		if p.certificate, err = loadCertificate(o); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	counted := newListener(l.(*net.TCPListener), o.Name, o.Limits)
	counted.plain = p.plain
	p.listener = counted
	if p.certificate != nil {
		p.listener = tls.NewListener(p.listener, &tls.Config{
			MinVersion: tls.VersionTLS12,
			// One transfer a connection is what registries' clients are made
			// for; multiplexed over one, layers come at half the speed.
			NextProtos:     []string{"http/1.1"},
			GetCertificate: p.certificate.get,
			// Records of full size from the first on: a layer is long.
			DynamicRecordSizingDisabled: true,
		})
	}
	return p, nil
}

// awaitEvery is how often Await tries an address.
const awaitEvery = 500 * time.Millisecond

// Await returns when this machine has the address's host, or when ctx ends. At
// boot, interfaces may come up after hubcap, and an IPv6 address is usable only
// after duplicate address detection. Await does not check whether the port is
// free; Listen reports that and every other error.
func Await(ctx context.Context, address string, log *slog.Logger) {
	for logged := false; ; {
		err := tryHost(address)
		if !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return
		}
		if !logged {
			logged = true
			log.Warn("no interface has the address to listen on; hubcap waits until one has it", "address", address, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(awaitEvery):
		}
	}
}

// Check returns the error for which Listen would refuse an address or a
// certificate, as far as that can be told without taking the port.
func Check(address, certFile, keyFile string) error {
	if certFile != "" {
		if _, err := readCertificate(certFile, keyFile); err != nil {
			return err
		}
	}
	err := tryHost(address)
	if errors.Is(err, syscall.EADDRNOTAVAIL) { // Await waits for it
		return nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// tryHost listens for a moment at a port of the system's choice, and returns the
// error if an address's host is not this machine's.
func tryHost(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	return l.Close()
}

// Serve answers until the port is closed.
func (p *Port) Serve() error { return p.server.Serve(p.listener) }

// Addr is where the port listens.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// Scheme is "https" or "http".
func (p *Port) Scheme() string {
	if p.certificate != nil {
		return "https"
	}
	return "http"
}

// Shutdown closes the listener and waits for running responses until ctx ends.
func (p *Port) Shutdown(ctx context.Context) error { return p.server.Shutdown(ctx) }

// Close closes the listener and all connections.
func (p *Port) Close() {
	_ = p.server.Close()
	_ = p.listener.Close() // if Serve was never called
}

// connKey is what a request's context has its conn under.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(c))
}

// connOf is the conn below what net/http has.
func connOf(c net.Conn) *conn {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	return c.(*conn)
}

// heard returns a handler that notes which connections have sent a request, and
// logs a panic in one line. net/http would log it in several lines, among the
// errors of clients.
func heard(h http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		if !c.heard.Load() {
			c.heard.Store(true)
		}
		if c.gather != nil {
			w = &securedWriter{w, c}
		}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler { //nolint:errorlint // the value itself, as net/http has it
				log.Error("a request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // net/http closes the connection and logs nothing
		}()
		h.ServeHTTP(w, r)
	})
}

// moved notes which connections wait for a request, the first one apart.
func moved(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		connOf(c).idle.Store(false)
	case http.StateIdle:
		connOf(c).waits()
	}
}
