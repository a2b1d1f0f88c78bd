package quota

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// clientsKept bounds of how many clients it is known what they had asked in
// vain.
const clientsKept = 10_000

// MissesOptions is what Misses needs; every field is required.
type MissesOptions struct {
	PerMinute int // of one client; it may have as many at once
	Now       func() time.Time
	Log       *slog.Logger
}

// Misses holds each client to a number of questions a minute that registries
// are asked for it in vain. Only those are counted, once it is known that they
// were: a pull of what exists costs nothing, however large it is and however
// many pull through one address. A client that asks many things at one time may
// get beyond its number, and waits for that much longer.
type Misses struct {
	MissesOptions
	clients *lru.Cache[netip.Addr, *rate.Limiter]
	over    atomic.Int64 // until when some client is over its number, Unix nanoseconds; it may be none
	told    atomic.Int64 // when that was last told
}

// NewMisses knows of no client yet.
func NewMisses(o MissesOptions) *Misses {
	clients, err := lru.New[netip.Addr, *rate.Limiter](clientsKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &Misses{MissesOptions: o, clients: clients}
}

// Wait is how long nothing is asked for a client; 0 when it may ask. It takes
// no lock while no client is over its number.
func (m *Misses) Wait(client netip.Addr) time.Duration {
	now := m.Now()
	if now.UnixNano() >= m.over.Load() {
		return 0
	}
	bucket, known := m.clients.Get(client)
	if !known {
		return 0
	}
	return m.wait(bucket, now)
}

// Missed notes that a registry was asked in vain for a client.
func (m *Misses) Missed(client netip.Addr) {
	bucket := rate.NewLimiter(rate.Limit(m.PerMinute)/60, m.PerMinute)
	if before, known, _ := m.clients.PeekOrAdd(client, bucket); known {
		bucket = before
	}
	now := m.Now()
	bucket.ReserveN(now, 1) // below nothing, where it must
	wait := m.wait(bucket, now)
	if wait == 0 {
		return
	}
	for until := now.Add(wait).UnixNano(); ; {
		before := m.over.Load()
		if until <= before || m.over.CompareAndSwap(before, until) {
			break
		}
	}
	m.tell(client, now)
}

// wait is how long it takes until a bucket has something again.
func (m *Misses) wait(bucket *rate.Limiter, now time.Time) time.Duration {
	lacking := 1 - bucket.TokensAt(now)
	if lacking <= 0 {
		return 0
	}
	return time.Duration(lacking / float64(bucket.Limit()) * float64(time.Second))
}

// tell says, once a minute at most, who is over his number.
func (m *Misses) tell(client netip.Addr, now time.Time) {
	last := m.told.Load()
	if last != 0 && now.UnixNano()-last < int64(time.Minute) || !m.told.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	m.Log.Warn("a client has asked for too much that does not exist: until it stops, it is refused what is not held; HUBCAP_MAX_MISSES_PER_CLIENT allows a gateway more",
		"client", client, "a_minute", m.PerMinute)
}
