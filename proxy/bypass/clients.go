package bypass

import (
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Clients are remembered in sets of ways places each; the set follows from the
// address. At most 8192 are remembered, in 2 MiB: 240 bytes each and a pointer.
// The one seen longest ago makes room in a full set, so that a site of some
// thousand hosts is counted exactly.
const (
	sets = 512
	ways = 16
)

// clients are the addresses that have pulled. A client that is known is found
// and counted without a lock and without an allocation.
type clients struct {
	seed  maphash.Seed
	slots [sets * ways]atomic.Pointer[client] // of each set, those in use come first

	mu sync.Mutex // held while a client is added, so that there is one of each
}

// client is what is known of one address.
type client struct {
	addr      netip.Addr
	suspected atomic.Int32 // suspicions that are not decided
	by        [families]use
}

// use is what the clients of one family at one address have done. Times are
// seconds since 1970; 0 is never.
type use struct {
	seen, pulls, pulled, bytes, left, leftAt atomic.Int64
}

// of returns the client of an address, which becomes known.
func (t *clients) of(addr netip.Addr) *client {
	set := t.set(addr)
	if c := find(set, addr); c != nil {
		return c
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := find(set, addr); c != nil {
		return c
	}
	oldest := &set[0]
	for i := range set {
		c := set[i].Load()
		if c == nil {
			oldest = &set[i]
			break
		}
		if c.lastSeen() < oldest.Load().lastSeen() {
			oldest = &set[i]
		}
	}
	c := &client{addr: addr}
	oldest.Store(c)
	return c
}

// set returns the places that an address may have.
func (t *clients) set(addr netip.Addr) []atomic.Pointer[client] {
	raw := addr.As16()
	at := maphash.Bytes(t.seed, raw[:]) % sets * ways
	return t.slots[at : at+ways]
}

// find returns the client of an address; nil if it is not in the set.
func find(set []atomic.Pointer[client], addr netip.Addr) *client {
	for i := range set {
		c := set[i].Load()
		if c == nil || c.addr == addr {
			return c
		}
	}
	return nil
}

// seen returns when the client was last seen by any family.
func (c *client) seen() (last int64) {
	for i := range c.by {
		last = max(last, c.by[i].seen.Load())
	}
	return last
}

// lastSeen is seen; a client that is just being added is the latest.
func (c *client) lastSeen() int64 {
	if last := c.seen(); last > 0 {
		return last
	}
	return math.MaxInt64
}

// note counts an answer.
func (u *use) note(now time.Time, pull bool, bytes int64) {
	if at := now.Unix(); u.seen.Load() != at {
		u.seen.Store(at)
	}
	if pull {
		u.pulls.Add(1)
		u.pulled.Store(now.Unix())
	}
	if bytes > 0 {
		u.bytes.Add(bytes)
	}
}

// lastPull returns when any client of an address last pulled; 0 for never.
func (t *clients) lastPull(addr netip.Addr) (last int64) {
	c := find(t.set(addr), addr)
	for f := range families {
		if c != nil {
			last = max(last, c.by[f].pulled.Load())
		}
	}
	return last
}

// Client is what is known of the clients of one family at one address, since
// the start or since the address was last forgotten.
type Client struct {
	Address  netip.Addr `json:"address"`
	Family   string     `json:"family" doc:"docker, containerd, buildkit, containers or other"`
	Pulls    int64      `json:"pulls" doc:"Images asked for"` // manifests by tag, and HEADs of manifests by digest
	Bytes    int64      `json:"bytes" doc:"Of content, sent to it"`
	LastSeen time.Time  `json:"last_seen"`
	Left     int64      `json:"left" doc:"How often it has probably gone to a registry itself"`
	LastLeft time.Time  `json:"last_left,omitzero"` // zero for never
}

// all returns what is known, by address and family.
func (t *clients) all() []Client {
	all := []Client{}
	for i := range t.slots {
		c := t.slots[i].Load()
		if c == nil {
			continue
		}
		for f := range families {
			u := &c.by[f]
			if u.seen.Load() == 0 {
				continue
			}
			one := Client{
				Address: c.addr, Family: f.String(), Pulls: u.pulls.Load(), Bytes: u.bytes.Load(), Left: u.left.Load(), LastSeen: time.Unix(u.seen.Load(), 0),
			}
			if at := u.leftAt.Load(); at != 0 {
				one.LastLeft = time.Unix(at, 0)
			}
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b Client) int { return a.Address.Compare(b.Address) })
	return all
}

// since returns how many addresses were seen at a time or later.
func (t *clients) since(at time.Time) (n int) {
	for i := range t.slots {
		if c := t.slots[i].Load(); c != nil && c.seen() >= at.Unix() {
			n++
		}
	}
	return n
}
