package setup

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Pulls knows when clients pulled.
type Pulls interface {
	// LastPull returns when a client last pulled; ok is false if it is not
	// known to have pulled.
	LastPull(client netip.Addr) (at time.Time, ok bool)
}

// maxClients is how many clients a LastPulls remembers.
const maxClients = 1024

// LastPulls is a bounded memory of when each client last pulled. To note the
// pull of a client that is known takes no lock and no memory.
type LastPulls struct {
	now   func() time.Time
	known atomic.Pointer[map[netip.Addr]*atomic.Int64] // Unix nanoseconds; the map is never changed
	mu    sync.Mutex                                   // held while known is replaced
}

// NewLastPulls returns an empty LastPulls. now is its clock.
func NewLastPulls(now func() time.Time) *LastPulls {
	p := &LastPulls{now: now}
	p.known.Store(&map[netip.Addr]*atomic.Int64{})
	return p
}

// Pulled notes that a client pulls now.
func (p *LastPulls) Pulled(client netip.Addr) {
	now := p.now().UnixNano()
	if at, ok := (*p.known.Load())[client]; ok {
		at.Store(now)
		return
	}
	p.add(client, now)
}

// add remembers one more client, and forgets the one whose last pull is the
// oldest if they are too many.
func (p *LastPulls) add(client netip.Addr, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := maps.Clone(*p.known.Load())
	if at, ok := known[client]; ok {
		at.Store(now)
		return
	}
	if len(known) >= maxClients {
		var oldest netip.Addr
		least := int64(0)
		for c, at := range known {
			if t := at.Load(); least == 0 || t < least {
				oldest, least = c, t
			}
		}
		delete(known, oldest)
	}
	at := new(atomic.Int64)
	at.Store(now)
	known[client] = at
	p.known.Store(&known)
}

// LastPull implements Pulls.
func (p *LastPulls) LastPull(client netip.Addr) (time.Time, bool) {
	at, ok := (*p.known.Load())[client]
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(0, at.Load()), true
}
