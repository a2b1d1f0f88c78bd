package port

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"hubcap/proxy/advice"
	"hubcap/proxy/logging"
)

// handshake is the first byte of a TLS handshake (RFC 8446, 5.1). No HTTP method
// begins with it.
const handshake = 0x16

const (
	// fallBack is how long a client has to speak plain HTTP after a handshake:
	// dockerd with "insecure-registries", podman, skopeo and crane try TLS first.
	fallBack = 5 * time.Second

	// maxTrying bounds the clients that are waited for; further ones are not noticed.
	maxTrying = 1024
)

// plain notices clients that speak TLS to a port without TLS, and do not fall
// back to plain HTTP. Clients behind one address count as one.
type plain struct {
	name   string
	now    func() time.Time
	log    *slog.Logger
	warned *logging.Throttle // of all ports under the same limits
	wait   time.Duration     // fallBack, but in tests

	mu     sync.Mutex
	trying map[netip.Addr]*time.Timer // clients that may still fall back
	client netip.Addr                 // the last one that did not
	at     time.Time
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && !c.read {
		c.read = true
		if c.from.plain != nil {
			c.from.plain.heard(addrOf(c.TCPConn), p[0])
		}
	}
	return n, err
}

// heard notes the first byte of a client's connection.
func (p *plain) heard(client netip.Addr, first byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	timer, tries := p.trying[client]
	switch {
	case first != handshake && tries:
		timer.Stop()
		delete(p.trying, client)
	case first == handshake && !tries && len(p.trying) < maxTrying:
		p.trying[client] = time.AfterFunc(p.wait, func() { p.stays(client) })
	}
}

// stays notes that a client speaks nothing but TLS.
func (p *plain) stays(client netip.Addr) {
	now := p.now()
	p.mu.Lock()
	_, tries := p.trying[client] // or it has fallen back at this moment
	if tries {
		delete(p.trying, client)
		p.client, p.at = client, now
	}
	p.mu.Unlock()
	if tries && p.warned.Allow(now) {
		p.log.Warn(advice.TLSToPlainPort(client), "port", p.name)
	}
}

func (p *plain) last() (client netip.Addr, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client, p.at
}
