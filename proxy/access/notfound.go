package access

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
)

// limitedClients is the largest number of clients whose not-found responses are
// remembered.
const limitedClients = 10_000

// NotFoundOptions is what a NotFoundLimit needs; every field is required.
type NotFoundOptions struct {
	PerMinute int // not-found responses that one client may cause, and how many of them at once
	Now       func() time.Time
	Log       *slog.Logger
}

// NotFoundLimit limits how many not-found responses of upstreams each client
// may cause: a token bucket for each address. Pulls of what exists are never
// counted. A response is counted when it has come, so that a client with many
// requests at a time can exceed the limit; it then waits longer. Its methods
// may be called from any goroutine.
type NotFoundLimit struct {
	o       NotFoundOptions
	clients *memory.Memory[netip.Addr, *rate.Limiter]
	until   atomic.Int64 // Unix nanoseconds until which any client may be over the limit
	warning logging.Throttle
}

// NewNotFoundLimit returns a limit that no client has used yet.
func NewNotFoundLimit(o NotFoundOptions) *NotFoundLimit {
	return &NotFoundLimit{o: o, clients: memory.New[netip.Addr, *rate.Limiter](limitedClients, nil)}
}

// Wait returns how long no upstream is asked for a client; 0 for a client below
// the limit. It takes no lock while no client is over the limit.
func (l *NotFoundLimit) Wait(client netip.Addr) time.Duration {
	now := l.o.Now()
	if now.UnixNano() >= l.until.Load() {
		return 0
	}
	bucket, known := l.clients.Get(client)
	if !known {
		return 0
	}
	return untilToken(bucket, now)
}

// Count counts a not-found response that a client has caused.
func (l *NotFoundLimit) Count(client netip.Addr) {
	bucket := rate.NewLimiter(rate.Limit(l.o.PerMinute)/60, l.o.PerMinute)
	if before, known := l.clients.KeepFirst(client, bucket); known {
		bucket = before
	}
	now := l.o.Now()
	bucket.ReserveN(now, 1) // the number of tokens may become negative
	wait := untilToken(bucket, now)
	if wait == 0 {
		return
	}
	for until := now.Add(wait).UnixNano(); ; {
		before := l.until.Load()
		if until <= before || l.until.CompareAndSwap(before, until) {
			break
		}
	}
	if l.warning.Allow(now) {
		l.o.Log.Warn("a client has caused too many not-found responses: until it stops, its requests for uncached content get 429; HUBCAP_NOT_FOUND_LIMIT sets the limit",
			"client", client, "per_minute", l.o.PerMinute)
	}
}

// untilToken returns the time until a bucket has a token.
func untilToken(bucket *rate.Limiter, now time.Time) time.Duration {
	lacking := 1 - bucket.TokensAt(now)
	if lacking <= 0 {
		return 0
	}
	return time.Duration(lacking / float64(bucket.Limit()) * float64(time.Second))
}
