package fakehub

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// conn is what the hub knows about one TCP connection.
type conn struct {
	net.Conn // the bare connection, below TLS
	id       int
	roles    []Role // that its listener plays
	role     Role   // of its latest request; guarded by connections.mu
	pace     pacer
	answered atomic.Bool
}

// reset ends the connection with a TCP reset.
func (c *conn) reset() {
	if t, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// connections are the open TCP connections and the roles that are down.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]*conn
	last int
	down map[Role]bool
}

func (cs *connections) init() {
	cs.open, cs.down = map[net.Conn]*conn{}, map[Role]bool{}
}

// admit registers a new connection, or resets it when all its roles are down.
func (cs *connections) admit(nc net.Conn, roles []Role) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.last++
	c := &conn{Conn: nc, id: cs.last, roles: roles}
	if cs.unwanted(c) {
		c.reset()
		return false
	}
	cs.open[nc] = c
	return true
}

// unwanted reports whether a connection belongs to what is down; mu is held.
func (cs *connections) unwanted(c *conn) bool {
	return cs.down[c.role] || !slices.ContainsFunc(c.roles, func(r Role) bool { return !cs.down[r] })
}

// use notes the role of a connection's request and reports whether it is up.
func (cs *connections) use(c *conn, role Role) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c.role = role
	return !cs.down[role]
}

// remove forgets a connection.
func (cs *connections) remove(nc net.Conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, nc)
}

// closeAll resets every open connection and returns how many there were.
func (cs *connections) closeAll() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.open {
		c.reset()
	}
	return len(cs.open)
}

type connKey struct{}

// bare returns the connection below TLS.
func bare(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return nc
}

// context puts the conn into the context of its requests.
func (cs *connections) context(ctx context.Context, nc net.Conn) context.Context {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.open[bare(nc)]
	if c == nil { // closed since it was accepted
		c = &conn{Conn: bare(nc)}
	}
	return context.WithValue(ctx, connKey{}, c)
}

// state is the server's ConnState; a hijacked connection is removed by its
// handler.
func (cs *connections) state(nc net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		cs.remove(bare(nc))
	}
}

// listener accepts only the connections that are admitted.
type listener struct {
	net.Listener
	conns *connections
	roles []Role
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil || l.conns.admit(nc, l.roles) {
			return nc, err
		}
	}
}

// Down makes the given roles, or all when none is given, unreachable: open
// connections are reset and so is every new one. The ports stay taken, so that
// Up finds them again; a client therefore sees a reset, not a refusal. Roles
// that share a listener with one that is up reset each request instead.
func (h *Hub) Down(roles ...Role) {
	if len(roles) == 0 {
		roles = []Role{RoleRegistry, RoleToken, RoleCDN}
	}
	h.conns.mu.Lock()
	defer h.conns.mu.Unlock()
	for _, r := range roles {
		h.conns.down[r] = true
	}
	for _, c := range h.conns.open {
		if h.conns.unwanted(c) {
			c.reset()
		}
	}
}

// Up brings the given roles, or all when none is given, back.
func (h *Hub) Up(roles ...Role) {
	h.conns.mu.Lock()
	defer h.conns.mu.Unlock()
	if len(roles) == 0 {
		clear(h.conns.down)
	}
	for _, r := range roles {
		delete(h.conns.down, r)
	}
}
