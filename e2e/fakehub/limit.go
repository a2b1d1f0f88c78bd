package fakehub

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// window is the time over which Docker Hub counts pulls.
const window = 6 * time.Hour

// rateLimits count the pulls of each source.
type rateLimits struct {
	mu   sync.Mutex
	used map[string]*pulls
}

// pulls are those of one source since a window began.
type pulls struct {
	since time.Time
	n     int
}

// reset forgets all pulls.
func (l *rateLimits) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = map[string]*pulls{}
}

// rateLimit is the limit of one request's source.
type rateLimit struct {
	limits *rateLimits
	max    int // 0 for no limit
	source string
	now    time.Time
}

// limit returns the limit that a request counts against.
func (h *Hub) limit(q *Request, user string) rateLimit {
	o := h.options.Load()
	if user != "" {
		return rateLimit{&h.limits, o.UserRateLimit, user, o.Clock()}
	}
	host, _, err := net.SplitHostPort(q.RemoteAddr)
	if err != nil {
		host = q.RemoteAddr
	}
	return rateLimit{&h.limits, o.RateLimit, host, o.Clock()}
}

// pulls returns the source's count, from 0 when its window is over; the mutex
// is held.
func (l rateLimit) pulls() *pulls {
	p := l.limits.used[l.source]
	if p == nil || !l.now.Before(p.since.Add(window)) {
		p = &pulls{since: l.now}
		l.limits.used[l.source] = p
	}
	return p
}

// exhausted reports whether nothing is left of the limit; else it counts a pull
// if there is something to pull.
func (l rateLimit) exhausted(count bool) bool {
	if l.max == 0 {
		return false
	}
	l.limits.mu.Lock()
	defer l.limits.mu.Unlock()
	p := l.pulls()
	if p.n >= l.max {
		return true
	}
	if count {
		p.n++
	}
	return false
}

// describe sets Docker Hub's headers, which are absent without a limit.
func (l rateLimit) describe(header http.Header) {
	if l.max == 0 {
		return
	}
	l.limits.mu.Lock()
	left := max(0, l.max-l.pulls().n)
	l.limits.mu.Unlock()
	header.Set("Ratelimit-Limit", fmt.Sprintf("%d;w=%d", l.max, int(window.Seconds())))
	header.Set("Ratelimit-Remaining", fmt.Sprintf("%d;w=%d", left, int(window.Seconds())))
	header.Set("Docker-Ratelimit-Source", l.source)
}

// tooMany returns the 429 of the pull limit, in the words of Docker Hub.
func (h *Hub) tooMany(user string) *answer {
	who := "unauthenticated "
	if user != "" {
		who = ""
	}
	a := errorAnswer(http.StatusTooManyRequests, "TOOMANYREQUESTS",
		"You have reached your "+who+"pull rate limit. https://www.docker.com/increase-rate-limit")
	if wait := h.options.Load().RetryAfter; wait > 0 {
		a.header.Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
	}
	return a
}

// ResetRateLimit forgets all pulls counted so far.
func (h *Hub) ResetRateLimit() { h.limits.reset() }
