package port

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hubcap/metrics"
)

// LimitsOptions is what Limits needs; every field but Exempt is required.
type LimitsOptions struct {
	Total     int            // connections of all ports under the limits
	PerClient int            // connections of one address
	Exempt    []netip.Prefix // addresses that may have more: proxies, with many clients behind them
	Now       func() time.Time
	Metrics   *metrics.Ports
	Log       *slog.Logger
}

// Limits bounds the connections of the ports that share it. A client that has
// too many of its own has further ones closed at once. When there are too many
// in all, new ones wait until others end: a client that is refused goes around
// hubcap for good, and one that waits does so for as long as a silent one may
// take at most. Connections that wait for their next request give their place
// up to both.
type Limits struct {
	LimitsOptions
	waiting atomic.Int32 // connections that are accepted and have no place yet

	mu      sync.Mutex
	changed sync.Cond // a connection has ended, or a listener
	open    map[*conn]struct{}
	clients map[netip.Addr]map[*conn]struct{} // those among them that have an address which PerClient holds for
	told    [metrics.ConnectionLimits]time.Time
}

// NewLimits returns limits under which nothing is open yet.
func NewLimits(o LimitsOptions) *Limits {
	l := &Limits{LimitsOptions: o, open: make(map[*conn]struct{}), clients: make(map[netip.Addr]map[*conn]struct{})}
	l.changed.L = &l.mu
	return l
}

// errCrowded says that a connection's client has too many.
var errCrowded = errors.New("too many connections of one client")

// enter counts a connection in, as soon as there is room for it. The error is
// errCrowded, or net.ErrClosed when its listener ends meanwhile.
func (l *Limits) enter(c *conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.clients[c.client]
	if len(own) >= l.PerClient && !l.yield(own) {
		l.met(metrics.LimitPerClient, c.from, "a client has as many connections as one may have, and more are refused; HUBCAP_MAX_CONNECTIONS_PER_CLIENT allows a gateway more, HUBCAP_TRUSTED_PROXIES names proxies", "client", c.client)
		return errCrowded
	}
	if len(l.open) >= l.Total && !l.yield(l.open) {
		l.met(metrics.LimitTotal, c.from, "there are as many connections as there may be, and new ones wait; HUBCAP_MAX_CONNECTIONS allows more", "connections", l.Total)
		l.waiting.Add(1)
		defer l.waiting.Add(-1)
	}
	for len(l.open) >= l.Total {
		if c.from.closed {
			return net.ErrClosed
		}
		l.changed.Wait()
	}
	l.open[c] = struct{}{}
	if c.client.IsValid() {
		if l.clients[c.client] == nil {
			l.clients[c.client] = make(map[*conn]struct{})
		}
		l.clients[c.client][c] = struct{}{}
	}
	l.Metrics.Opened(c.from.name)
	return nil
}

// yield closes one of the connections that waits for its next request, and
// tells whether there was one. l.mu is held.
func (l *Limits) yield(among map[*conn]struct{}) bool {
	for c := range among {
		if c.rest() {
			l.Metrics.Limited(c.from.name, metrics.LimitIdle)
			l.leaveLocked(c)
			_ = c.TCPConn.Close()
			return true
		}
	}
	return false
}

// leave counts a connection out, once.
func (l *Limits) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(c)
}

func (l *Limits) leaveLocked(c *conn) {
	if _, open := l.open[c]; !open {
		return
	}
	delete(l.open, c)
	if own := l.clients[c.client]; own != nil {
		if delete(own, c); len(own) == 0 {
			delete(l.clients, c.client)
		}
	}
	l.Metrics.Closed(c.from.name)
	l.changed.Broadcast()
}

// tryAgain is how long a listener waits at most before it tries to accept
// again for want of a descriptor: others than connections have some too.
const tryAgain = 100 * time.Millisecond

// starved notes that the system had no descriptor for a new connection, and
// returns when there may be one. Connections that only wait for a request make
// room at once, and otherwise the next one that ends does.
func (l *Limits) starved(from *listener, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.met(metrics.LimitDescriptors, from, "no connection can be accepted for want of file descriptors; hubcap tries again", "err", err)
	if l.yield(l.open) {
		return
	}
	again := time.AfterFunc(tryAgain, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})
	defer again.Stop()
	l.changed.Wait()
}

// met counts a limit that was met, and tells of it at most once a minute. l.mu
// is held.
func (l *Limits) met(limit metrics.ConnectionLimit, from *listener, text string, details ...any) {
	l.Metrics.Limited(from.name, limit)
	if now := l.Now(); now.Sub(l.told[limit]) >= time.Minute {
		l.told[limit] = now
		l.Log.Warn(text, append([]any{"port", from.name}, details...)...)
	}
}

// closing has whoever waits for room at a listener give up.
func (l *Limits) closing(from *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from.closed = true
	l.changed.Broadcast()
}

// client is the address that a connection counts for; invalid for one that may
// have any number.
func (l *Limits) client(c *net.TCPConn) netip.Addr {
	at, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := at.AddrPort().Addr().Unmap().WithZone("")
	if slices.ContainsFunc(l.Exempt, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return netip.Addr{}
	}
	return addr
}

// listener counts the connections that it accepts.
type listener struct {
	*net.TCPListener
	name   string
	limits *Limits
	closed bool // limits.mu
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.AcceptTCP()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			l.limits.starved(l, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		c := &conn{TCPConn: tcp, from: l, client: l.limits.client(tcp)}
		if err = l.limits.enter(c); err == nil {
			return c, nil
		}
		_ = tcp.Close()
		if !errors.Is(err, errCrowded) {
			return nil, err
		}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.limits.closing(l)
	return l.TCPListener.Close()
}

// conn is a counted connection. It is a *net.TCPConn in all else, so that
// files still go to it by sendfile.
type conn struct {
	*net.TCPConn
	from   *listener
	client netip.Addr
	idle   atomic.Bool // waits for its next request
	heard  atomic.Bool // a whole request head has come
	ended  atomic.Bool
}

// rest takes a connection that waits for its next request out of use, and
// tells whether it was one.
func (c *conn) rest() bool { return c.idle.CompareAndSwap(true, false) }

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.ended.CompareAndSwap(false, true) {
		if !c.heard.Load() {
			c.from.limits.Metrics.Limited(c.from.name, metrics.LimitHead)
		}
		c.from.limits.leave(c)
	}
	return c.TCPConn.Close()
}

// waits notes that a connection waits for its next request. While others wait
// for a place it gives up its own.
func (c *conn) waits() {
	c.idle.Store(true)
	if l := c.from.limits; l.waiting.Load() > 0 && c.rest() {
		l.Metrics.Limited(c.from.name, metrics.LimitIdle)
		_ = c.Close()
	}
}
