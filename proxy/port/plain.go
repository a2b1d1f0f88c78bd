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

// plain notices clients that speak TLS to a port without TLS.
type plain struct {
	name   string
	now    func() time.Time
	log    *slog.Logger
	warned *logging.Throttle // of all ports under the same limits

	mu     sync.Mutex
	client netip.Addr // the last one
	at     time.Time
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && !c.read {
		c.read = true
		if p[0] == handshake && c.from.plain != nil {
			c.from.plain.saw(addrOf(c.TCPConn))
		}
	}
	return n, err
}

func (p *plain) saw(client netip.Addr) {
	now := p.now()
	p.mu.Lock()
	p.client, p.at = client, now
	p.mu.Unlock()
	if p.warned.Allow(now) {
		p.log.Warn(advice.TLSToPlainPort(client), "port", p.name)
	}
}

func (p *plain) last() (client netip.Addr, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client, p.at
}
