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

	"hubcap/metrics"
)

// pullWindow is over what time Docker Hub counts pulls
// (docs.docker.com/docker-hub/usage/pulls), where it does not say it itself.
const pullWindow = 6 * time.Hour

// probeAfter is how often a HEAD, which costs no pull, may ask whether there
// are pulls again.
const probeAfter = 30 * time.Second

// tellAfter is how often the operator is told of a limit at most.
const tellAfter = time.Minute

// The forecast of when the pulls end looks this far back, at one count in each
// step.
const (
	paceOver = time.Hour
	paceStep = time.Minute
)

// errNoPulls says that a manifest was not asked for.
var errNoPulls = errors.New("not asked: the pull limit is reached")

// budget is how many pulls a registry leaves one identity, as its answers
// tell. A pull is a GET of a manifest; HEADs and blobs are none.
type budget struct {
	now     func() time.Time
	metrics *metrics.Upstream

	mu     sync.Mutex
	window time.Duration
	until  time.Time // no manifest is fetched before this, unless the registry says that there are pulls again
	probed time.Time
	told   time.Time // when the operator was last told that there are no pulls
	spoken int       // answers that spoke of the limit
	counts []count   // for the pace, in order of time
}

// count is how many pulls were left at a time.
type count struct {
	at   time.Time
	left int
}

func newBudget(now func() time.Time, m *metrics.Upstream) *budget {
	return &budget{now: now, metrics: m, window: pullWindow}
}

// read takes what an answer says of the limit. Docker Hub's headers may be
// missing, which means no limit, or empty.
func (b *budget) read(h http.Header) {
	limit, window, ok := pulls(h.Get("RateLimit-Limit"))
	if ok {
		b.metrics.Limit(limit, window)
	}
	if source := h.Get("Docker-RateLimit-Source"); source != "" {
		b.metrics.Source(printable(source))
	}
	remaining := h.Get("RateLimit-Remaining")
	if remaining == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spoken++
	left, leftWindow, known := pulls(remaining)
	if !known {
		return
	}
	if window = max(window, leftWindow); window > 0 {
		b.window = window
	}
	if left > 0 {
		b.until = time.Time{}
	}
	b.metrics.Remaining(left, b.forecast(left))
}

// forecast notes a count, and tells for how long the pulls last at the pace of
// late; negative for ever. b.mu is held.
func (b *budget) forecast(left int) time.Duration {
	now := b.now()
	for len(b.counts) > 0 && (now.Sub(b.counts[0].at) > paceOver || b.counts[0].left < left) {
		b.counts = b.counts[1:] // too old, or before pulls came back
	}
	if last := len(b.counts) - 1; last < 0 || now.Sub(b.counts[last].at) >= paceStep {
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

// stop notes that the registry grants no more pulls for a while, its window
// where it does not say how long. It tells whether the operator is to be told,
// once in a minute at most, and for how long that is.
func (b *budget) stop(retryAfter time.Duration) (wait time.Duration, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if retryAfter <= 0 {
		retryAfter = b.window
	}
	now := b.now()
	b.until, b.probed = now.Add(retryAfter), now
	b.metrics.Remaining(0, 0)
	if tell = now.Sub(b.told) >= tellAfter; tell {
		b.told = now
	}
	return retryAfter, tell
}

// ask lets one request in a while find out by head, which costs no pull, whether
// there are pulls again. A registry that answers and says nothing of a limit
// has none any more.
func (b *budget) ask(head func() error) {
	if !b.probe() {
		return
	}
	before := b.answers()
	if err := head(); err == nil && b.answers() == before {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.until = time.Time{}
	}
}

// answers is how many answers have spoken of the limit.
func (b *budget) answers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spoken
}

// wait is how long no manifest should be fetched.
func (b *budget) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.until.Sub(b.now()), 0)
}

// probe tells whoever may ask now whether there are pulls again.
func (b *budget) probe() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if now.Sub(b.probed) < probeAfter {
		return false
	}
	b.probed = now
	return true
}

// pulls reads "100;w=21600". Docker Hub sends ";w=21600" at times.
func pulls(header string) (n int, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(header, ";")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if seconds, found := strings.CutPrefix(strings.TrimSpace(rest), "w="); found {
		if w, err := strconv.Atoi(seconds); err == nil && w > 0 && w <= int(30*24*time.Hour/time.Second) {
			window = time.Duration(w) * time.Second
		}
	}
	return n, window, err == nil && n >= 0
}

// isPull tells a request that counts as a pull, be it answered or not. Any
// other one is refused for another reason than that there are no pulls left.
func isPull(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/")
}

// isPullLimit tells the 429 of a pull limit from that of a limit on requests
// of any kind. Docker Hub words them "You have reached your pull rate limit"
// and "Too Many Requests". The body can be read afterwards.
func isPullLimit(resp *http.Response, patience time.Duration) bool {
	if n, _, ok := pulls(resp.Header.Get("RateLimit-Remaining")); ok && n == 0 {
		return true
	}
	text := readRefusal(resp.Body, patience)
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return slices.ContainsFunc(ociErrors(text), func(one ociError) bool {
		return strings.Contains(strings.ToLower(one.Message), "pull rate limit")
	})
}
