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
	"hubcap/proxy/logging"
)

// LimitsOptions is what Limits needs; every field but Exempt is required.
type LimitsOptions struct {
	Total     int // connections that are served at a time, at all ports under the limits
	PerClient int // those of them that may be of one address
	Waiting   int // connections that are accepted and wait to be served; one address may have half of them
	// Exempt reports whether PerClient and its half of Waiting do not hold for an address
	// now, as many clients are behind it. It must not block; nil for none.
	Exempt  func(netip.Addr) bool
	Now     func() time.Time
	Metrics *metrics.Ports
	Log     *slog.Logger
}

// Limits bounds the connections of the ports that share it, so that no address
// keeps the others out. A connection is served at once if there is a place and
// its address may have it. Otherwise it waits: it is not read, and costs a
// descriptor and little else. A place that becomes free goes to the addresses
// that wait by turns, and to the connections of one address in the order in
// which they came; an address that has as many places as it may is passed over.
// Connections that only wait for their next request give their place up to those
// that wait for one.
//
// A client whose connection is closed goes to the registry itself, so only an
// address that also has its share of the waiting connections has further ones
// closed. When the waiting places are all taken, nothing is accepted until one of
// them becomes free.
type Limits struct {
	LimitsOptions
	queued   atomic.Int32     // connections that wait
	spokeTLS logging.Throttle // of log lines about TLS at ports without it

	mu      sync.Mutex
	changed sync.Cond // a connection has ended or no longer waits, or a listener has closed
	open    map[*conn]struct{}
	clients map[netip.Addr]*clientConns // with connections that are open or wait
	turns   []*clientConns              // with connections that wait, the next one first
	warning [metrics.ConnectionLimits]logging.Throttle
	last    [metrics.ConnectionLimits]time.Time // when each limit was last met
}

// clientConns are the connections of one address. Limits.mu is held for them.
type clientConns struct {
	addr    netip.Addr
	exempt  bool
	open    map[*conn]struct{}
	waiting []*conn
}

// NewLimits returns limits under which nothing is open yet.
func NewLimits(o LimitsOptions) *Limits {
	l := &Limits{LimitsOptions: o, open: make(map[*conn]struct{}), clients: make(map[netip.Addr]*clientConns)}
	l.changed.L = &l.mu
	return l
}

// Queued returns how many connections wait to be served. It takes the lock that
// every new connection takes, and so does not return when those are stuck.
func (l *Limits) Queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.queued.Load())
}

// enter serves a new connection, makes it wait, or closes it. It returns when the
// next connection may be accepted.
func (l *Limits) enter(c *conn, addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.from.closed {
		_ = c.TCPConn.Close()
		return
	}
	c.client = l.client(addr)
	switch {
	case l.atLimit(c.client) && !l.yield(c.client.open):
		l.met(metrics.LimitPerClient, c.from, "one address has reached its limit of connections, and further ones wait; HUBCAP_MAX_CONNECTIONS and HUBCAP_MAX_CONNECTIONS_PER_CLIENT allow more, HUBCAP_TRUSTED_PROXIES names proxies", "client", addr)
		if int(l.queued.Load()) >= l.Waiting {
			l.refuse(c)
			return
		}
	case len(l.open) >= l.Total && !l.yield(l.open):
		l.met(metrics.LimitTotal, c.from, "the limit of connections is reached, and new ones wait; HUBCAP_MAX_CONNECTIONS allows more", "connections", l.Total)
	default:
		l.serve(c)
		return
	}
	if !c.client.exempt && len(c.client.waiting) >= max(l.Waiting/2, 1) {
		l.refuse(c)
		return
	}
	l.wait(c)
	for int(l.queued.Load()) > l.Waiting && !c.from.closed {
		l.changed.Wait()
	}
}

// atLimit reports whether an address has as many served connections as it may.
func (l *Limits) atLimit(who *clientConns) bool { return !who.exempt && len(who.open) >= l.PerClient }

// serve hands a connection to its listener. l.mu is held, here and below.
func (l *Limits) serve(c *conn) {
	l.clients[c.client.addr] = c.client // forget may have removed it
	l.open[c] = struct{}{}
	c.client.open[c] = struct{}{}
	l.Metrics.Opened(c.from.name)
	c.from.ready = append(c.from.ready, c)
	c.from.wake.Signal()
}

// wait puts a connection behind the others of its address.
func (l *Limits) wait(c *conn) {
	l.clients[c.client.addr] = c.client
	if len(c.client.waiting) == 0 {
		l.turns = append(l.turns, c.client)
	}
	c.client.waiting = append(c.client.waiting, c)
	l.queued.Add(1)
	l.Metrics.Waits(c.from.name, 1)
}

// waited takes the first of an address's waiting connections out, and gives the
// address its next turn after all others.
func (l *Limits) waited(who *clientConns) *conn {
	c := who.waiting[0]
	who.waiting = who.waiting[1:]
	l.turns = slices.DeleteFunc(l.turns, func(one *clientConns) bool { return one == who })
	if len(who.waiting) > 0 {
		l.turns = append(l.turns, who)
	}
	l.queued.Add(-1)
	l.Metrics.Waits(c.from.name, -1)
	return c
}

// advance serves connections that wait, as far as there are places.
func (l *Limits) advance() {
	for len(l.open) < l.Total {
		i := slices.IndexFunc(l.turns, func(who *clientConns) bool { return !l.atLimit(who) })
		if i < 0 {
			break
		}
		l.serve(l.waited(l.turns[i]))
	}
	l.changed.Broadcast()
}

// refuse closes a connection that may not even wait.
func (l *Limits) refuse(c *conn) {
	l.met(metrics.LimitWaiting, c.from, "too many connections of one address wait already, and further ones are closed, and its clients may go to the registry themselves; HUBCAP_MAX_CONNECTIONS and HUBCAP_MAX_CONNECTIONS_PER_CLIENT allow more, HUBCAP_TRUSTED_PROXIES names proxies", "client", c.client.addr)
	l.forget(c.client)
	_ = c.TCPConn.Close()
}

// yield closes one of the connections that wait for their next request, and
// reports whether there was one. What waits for a place does not get this one:
// it would have had it before, had it been able to use it.
func (l *Limits) yield(among map[*conn]struct{}) bool {
	for c := range among {
		if c.rest() {
			l.Metrics.Limited(c.from.name, metrics.LimitIdle)
			l.remove(c)
			l.forget(c.client)
			_ = c.TCPConn.Close()
			return true
		}
	}
	return false
}

// leave notes that a connection has ended; further calls do nothing.
func (l *Limits) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[c]; open {
		l.remove(c)
		l.forget(c.client)
		l.advance()
	}
}

func (l *Limits) remove(c *conn) {
	delete(l.open, c)
	delete(c.client.open, c)
	l.Metrics.Closed(c.from.name)
}

// client is the entry of an address that connects.
func (l *Limits) client(addr netip.Addr) *clientConns {
	who := l.clients[addr]
	if who == nil {
		who = &clientConns{addr: addr, open: make(map[*conn]struct{})}
		l.clients[addr] = who
	}
	who.exempt = l.Exempt != nil && l.Exempt(addr)
	return who
}

// forget removes the entry of an address without connections.
func (l *Limits) forget(who *clientConns) {
	if len(who.open) == 0 && len(who.waiting) == 0 {
		delete(l.clients, who.addr)
	}
}

// wanted reports whether a waiting connection could take the place of c.
func (l *Limits) wanted(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(c.client.waiting) > 0 ||
		len(l.open) >= l.Total && slices.ContainsFunc(l.turns, func(who *clientConns) bool { return !l.atLimit(who) })
}

// tryAgain is the longest that a listener waits for a file descriptor before it
// accepts again: other parts of the process release descriptors too.
const tryAgain = 100 * time.Millisecond

// starved notes that the system had no descriptor for a new connection, and
// returns when there may be one. Connections that only wait for a request make
// room at once, and otherwise the next one that ends does.
func (l *Limits) starved(from *listener, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.met(metrics.LimitDescriptors, from, "no connection can be accepted for want of file descriptors; hubcap tries again", "err", err)
	if l.yield(l.open) {
		l.advance()
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

// met counts a limit that was reached and logs it at most once a minute. l.mu is
// held.
func (l *Limits) met(limit metrics.ConnectionLimit, from *listener, text string, details ...any) {
	l.Metrics.Limited(from.name, limit)
	l.last[limit] = l.Now()
	if l.warning[limit].Allow(l.last[limit]) {
		l.Log.Warn(text, append([]any{"port", from.name}, details...)...)
	}
}

// closing ends a listener: its waiting connections are closed, and those that
// were about to be served.
func (l *Limits) closing(from *listener) {
	l.mu.Lock()
	from.closed = true
	ended := from.ready
	from.ready = nil
	for _, who := range slices.Clone(l.turns) {
		for range len(who.waiting) {
			c := l.waited(who)
			if c.from == from {
				ended = append(ended, c)
				continue
			}
			l.wait(c)
		}
		l.forget(who)
	}
	l.changed.Broadcast()
	from.wake.Broadcast()
	l.mu.Unlock()
	for _, c := range ended {
		_ = c.Close()
	}
}

// addrOf is the address that a connection counts for.
func addrOf(c *net.TCPConn) netip.Addr {
	at, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return at.AddrPort().Addr().Unmap().WithZone("")
}

// listener serves the connections that its limits let through.
type listener struct {
	*net.TCPListener
	name   string
	limits *Limits
	plain  *plain    // notices TLS; nil at a port with TLS
	accept sync.Once // starts accepting

	wake   sync.Cond // any field below; its lock is limits.mu
	ready  []*conn   // to be served
	closed bool
	failed error // of accepting
}

func newListener(l *net.TCPListener, name string, limits *Limits) *listener {
	made := &listener{TCPListener: l, name: name, limits: limits}
	made.wake.L = &limits.mu
	return made
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.accept.Do(func() { go l.acceptAll() })
	l.limits.mu.Lock()
	defer l.limits.mu.Unlock()
	for len(l.ready) == 0 && !l.closed && l.failed == nil {
		l.wake.Wait()
	}
	switch {
	case l.closed:
		return nil, net.ErrClosed
	case len(l.ready) == 0:
		return nil, l.failed
	}
	c := l.ready[0]
	l.ready = l.ready[1:]
	return c, nil
}

// acceptAll accepts connections until the listener is closed, also while there
// is no place for some of them: others may have one.
func (l *listener) acceptAll() {
	for {
		tcp, err := l.AcceptTCP()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			l.limits.starved(l, err)
			continue
		}
		if err != nil {
			l.limits.mu.Lock()
			defer l.limits.mu.Unlock()
			l.failed = err
			l.wake.Broadcast()
			return
		}
		one := &conn{TCPConn: tcp, from: l}
		if l.plain == nil {
			one.gather = new(gather)
		}
		l.limits.enter(one, addrOf(tcp))
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	err := l.TCPListener.Close()
	l.limits.closing(l)
	return err
}

// conn is a counted connection. It is a *net.TCPConn in all else, so that
// files still go to it by sendfile.
type conn struct {
	*net.TCPConn
	from   *listener
	gather *gather // nil at a port without TLS
	client *clientConns
	read   bool        // something was read
	idle   atomic.Bool // waits for its next request
	heard  atomic.Bool // a whole request head has come
	ended  atomic.Bool
}

// rest takes a connection that waits for its next request out of use, and
// reports whether it was one.
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

// waits notes that a connection waits for its next request. It gives up its
// place if others wait for it.
func (c *conn) waits() {
	c.idle.Store(true)
	if l := c.from.limits; l.queued.Load() > 0 && l.wanted(c) && c.rest() {
		l.Metrics.Limited(c.from.name, metrics.LimitIdle)
		_ = c.Close()
	}
}
