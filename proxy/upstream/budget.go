package upstream

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hubcap/proxy/logging"
)

// pullWindow is the time over which Docker Hub counts pulls
// (docs.docker.com/docker-hub/usage/pulls), until an answer states it.
const pullWindow = 6 * time.Hour

// probeAfter is how often a HEAD, which costs no pull, may find out whether
// there are pulls again.
const probeAfter = 30 * time.Second

// The forecast of when no pull is left uses the rate of the last hour, from at
// most one count a minute.
const (
	rateOver = time.Hour
	rateStep = time.Minute
)

// errNoPulls says that a manifest was not requested.
var errNoPulls = errors.New("not requested: the pull limit is reached")

// budget is the pull limit of one identity at one registry, as answers state
// it. A pull is a GET of a manifest; HEADs and blobs are not. Its methods are
// safe for concurrent use.
type budget struct {
	now func() time.Time
	log logging.Throttle // of "the pull limit is reached"

	mu     sync.Mutex
	stated LimitStatus
	window time.Duration // as stated, else pullWindow
	probed time.Time
	spoken int     // answers that stated how many pulls are left
	counts []count // for the rate, oldest first
}

// count is how many pulls were left at a time.
type count struct {
	at   time.Time
	left int
}

func newBudget(now func() time.Time) *budget {
	return &budget{now: now, window: pullWindow, stated: LimitStatus{Limit: -1, Remaining: -1}}
}

// status returns what is known of the limit.
func (b *budget) status() LimitStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stated
}

// read takes what an answer states of the limit. Docker Hub's headers may be
// missing, which means that there is no limit, or empty.
func (b *budget) read(h http.Header) {
	limit, window, hasLimit := pulls(h.Get("RateLimit-Limit"))
	source, remaining := h.Get("Docker-RateLimit-Source"), h.Get("RateLimit-Remaining")
	if !hasLimit && source == "" && remaining == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stated.Stated = b.now()
	if hasLimit {
		b.stated.Limit = limit
	}
	if source != "" {
		source = printable(source)
		b.stated.Source = source[:min(len(source), maxMessage)]
	}
	if remaining != "" {
		b.spoken++
	}
	left, leftWindow, known := pulls(remaining)
	if hasLimit && window > 0 {
		b.stated.Window = window
	}
	if !known {
		return
	}
	if window = max(window, leftWindow); window > 0 {
		b.window = window
	}
	if left > 0 {
		b.stated.Until = time.Time{}
	}
	b.stated.Remaining, b.stated.Exhausted = left, b.forecast(left)
}

// forecast notes a count, and returns how long the pulls last at the rate of
// the last hour; negative if they do not decrease. b.mu is held.
func (b *budget) forecast(left int) time.Duration {
	now := b.now()
	for len(b.counts) > 0 && (now.Sub(b.counts[0].at) > rateOver || b.counts[0].left < left) {
		b.counts = b.counts[1:] // too old, or before there were more pulls again
	}
	if last := len(b.counts) - 1; last < 0 || now.Sub(b.counts[last].at) >= rateStep {
		b.counts = append(b.counts, count{now, left})
	}
	used, over := b.counts[0].left-left, now.Sub(b.counts[0].at)
	if used <= 0 || over <= 0 {
		if left == 0 {
			return 0
		}
		return -1
	}
	lasts := float64(left) * float64(over) / float64(used)
	return time.Duration(min(lasts, math.MaxInt64/2))
}

// addForeign notes pulls of this limit that the box did not make.
func (b *budget) addForeign(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stated.Foreign += int64(n)
}

// stop notes that the registry allows no pull for a while, for its window if it
// does not state how long. It returns for how long.
func (b *budget) stop(retryAfter time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if retryAfter <= 0 {
		retryAfter = b.window
	}
	now := b.now()
	b.stated.Until, b.probed = now.Add(retryAfter), now
	b.stated.Remaining, b.stated.Exhausted, b.stated.Stated = 0, 0, now
	return retryAfter
}

// ask has one request in probeAfter find out by head, which costs no pull,
// whether there are pulls again. A registry that answers without stating a limit
// no longer has one.
func (b *budget) ask(head func() error) {
	b.mu.Lock()
	now, before := b.now(), b.spoken
	due := now.Sub(b.probed) >= probeAfter
	if due {
		b.probed = now
	}
	b.mu.Unlock()
	if !due || head() != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spoken == before {
		b.stated.Until = time.Time{}
	}
}

// wait returns for how long no manifest is to be fetched.
func (b *budget) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.stated.Until.Sub(b.now()), 0)
}

// maxPulls bounds what counts as a stated number of pulls: sums of some of them
// must not overflow.
const maxPulls = 1 << 30

// pulls parses "100;w=21600". Docker Hub sends ";w=21600" at times.
func pulls(header string) (n int, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(header, ";")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if seconds, found := strings.CutPrefix(strings.TrimSpace(rest), "w="); found {
		if w, err := strconv.Atoi(seconds); err == nil && w > 0 && w <= int(30*24*time.Hour/time.Second) {
			window = time.Duration(w) * time.Second
		}
	}
	return n, window, err == nil && n >= 0 && n <= maxPulls
}

// isPull reports whether a request counts as a pull. A pull limit refuses no
// other requests.
func isPull(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/")
}

// isPullLimit reports whether a 429 is that of a pull limit, and not of a limit
// on requests of any kind. Docker Hub words them "You have reached your pull
// rate limit" and "Too Many Requests". The body can still be read, the first
// maxRefusal bytes of it.
func isPullLimit(resp *http.Response, timeout time.Duration) bool {
	if n, _, ok := pulls(resp.Header.Get("RateLimit-Remaining")); ok && n == 0 {
		return true
	}
	text := readRefusal(resp.Body, timeout)
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return slices.ContainsFunc(parseRefusal(text).Errors, func(one ociError) bool {
		return strings.Contains(strings.ToLower(one.Message), "pull rate limit")
	})
}
