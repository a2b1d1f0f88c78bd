// Package bypass finds out which clients go around the box. dockerd, containerd,
// BuildKit and podman turn to the registry itself, silently, after certain
// answers of a mirror. Such an answer is a suspicion. It is decided within a
// minute: the client stayed if it fetches the image here after all, and left if
// it does not. The package also counts distinct clients. It knows addresses and
// what was answered; it knows neither HTTP nor what is cached.
//
// Files: bypass.go (suspicions), answer.go (which answers make which client
// leave), family.go (kinds of clients), clients.go (distinct clients).
package bypass

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
)

const (
	// again is for how long further answers about the same reference belong to
	// the same suspicion: dockerd asks twice before it leaves, containerd six
	// times.
	again = 10 * time.Second
	// layerAgain is the same for dockerd and blobs, from the last answer on: it
	// asks five times for a layer, 5, 10, 15 and 20 seconds apart.
	layerAgain = 25 * time.Second
	// decideAfter is how long a client has to come back.
	decideAfter = time.Minute
	// decideEvery is how often suspicions are decided if nothing else happens.
	decideEvery = 5 * time.Second
	// maxSuspicions bounds the suspicions that are not decided, and those that
	// are remembered for again; each takes up to 1 KiB.
	maxSuspicions = 1024
	// maxText bounds each text that a client has sent, in bytes.
	maxText = 256
)

// windows are the times over which distinct clients are counted.
var windows = []struct {
	name string
	span time.Duration
}{{"1h", time.Hour}, {"1d", 24 * time.Hour}, {"7d", 7 * 24 * time.Hour}}

// Options is what a Monitor needs; every field is required.
type Options struct {
	Now     func() time.Time
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// Monitor watches the answers of the mirror ports. Its methods are safe for
// concurrent use.
type Monitor struct {
	o       Options
	clients clients

	mu       sync.Mutex
	counted  *memory.Memory[suspect, time.Time] // when a suspicion was last counted
	open     []suspicion                        // not decided, oldest first
	decided  []Suspicion                        // the last ones, in order
	warned   logging.Throttle
	unlogged int // clients that have left since the last warning
}

// suspect is who was answered about what.
type suspect struct {
	client     netip.Addr
	family     Family
	repository string // with its registry; empty where the request names none that is known
	reference  string // tag or digest; else the path
}

// suspicion is an answer after which a client may have left.
type suspicion struct {
	suspect
	by     *client // nil for one that may not pull here
	at     time.Time
	kind   Kind
	image  string
	answer string
}

// New returns a Monitor that has seen no answer, and exports what it counts.
func New(o Options) *Monitor {
	m := &Monitor{o: o, counted: memory.New[suspect, time.Time](maxSuspicions, nil)}
	m.clients.seed = maphash.MakeSeed()
	o.Metrics.Watch(func(set metrics.Set) {
		for _, w := range windows {
			set(metrics.Clients, float64(m.Distinct(w.span)), w.name)
		}
	}, metrics.Clients)
	return m
}

// Run decides suspicions until ctx ends.
func (m *Monitor) Run(ctx context.Context) {
	ticker := time.NewTicker(decideEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m.decide()
		}
	}
}

// Distinct returns how many addresses have asked for anything within a time
// that ends now; since the start, if that is later.
func (m *Monitor) Distinct(within time.Duration) int { return m.clients.since(m.o.Now().Add(-within)) }

// Clients returns what is known of each client, by address and family.
func (m *Monitor) Clients() []Client {
	m.decide()
	return m.clients.all()
}

// LastPull returns when a client last pulled; ok is false if it is not known to
// have pulled.
func (m *Monitor) LastPull(client netip.Addr) (at time.Time, ok bool) {
	last := m.clients.lastPull(client)
	return time.Unix(last, 0), last > 0
}

// Answered takes an answer. For one that makes no client leave it takes no lock,
// unless the client is new or under suspicion.
func (m *Monitor) Answered(a Answer) {
	now := m.o.Now()
	var c *client
	if a.Why != NotAllowed {
		c = m.clients.of(a.Client)
		c.by[a.Family].note(now, a.pull(), a.Bytes)
	}
	switch {
	case a.leaves():
		m.suspect(a, c, now)
	case c != nil && c.suspected.Load() > 0 && a.Whole && a.Why == None:
		m.stayed(a, c, now)
	}
}

// suspect counts a suspicion, unless the answer belongs to one that is counted.
// What the registry does not have either is not decided, because the client gets
// nothing there; nor is what comes while maxSuspicions are not decided yet.
func (m *Monitor) suspect(a Answer, c *client, now time.Time) {
	s := suspicion{suspect: a.suspect(), by: c, at: now, kind: a.Kind, image: a.image(), answer: fmt.Sprintf("%d %s", a.Status, a.Why)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.belongs(a, s.suspect, now) {
		return
	}
	m.counted.Keep(s.suspect, now)
	m.o.Metrics.Bypass.Suspected(a.Family.String(), a.Why.String())
	if a.Why == NotFound || len(m.open) == maxSuspicions {
		return
	}
	m.open = append(m.open, s)
	if c != nil {
		c.suspected.Add(1)
	}
}

// belongs reports whether an answer is about the same pull as the last one that
// was counted. What counts is when the client asked: the answer may have taken
// long. m.mu is held.
func (m *Monitor) belongs(a Answer, s suspect, now time.Time) bool {
	last, ok := m.counted.Get(s)
	if !ok || now.Before(last) {
		return false
	}
	if a.Family != Docker || a.Kind != Blob {
		return now.Add(-a.Took).Before(last.Add(again))
	}
	if now.Add(-a.Took).Before(last.Add(layerAgain)) {
		m.counted.Keep(s, now)
		return true
	}
	return false
}

// stayed decides the suspicions that an answer dispels. Only a request that
// came after the suspicion shows that the client is still here.
func (m *Monitor) stayed(a Answer, c *client, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decideLocked(now)
	began := now.Add(-a.Took)
	m.open = slices.DeleteFunc(m.open, func(s suspicion) bool {
		if s.by != c || s.at.After(began) || !a.dispels(s) {
			return false
		}
		c.suspected.Add(-1)
		m.decides(s, stayed)
		return true
	})
}

// The outcomes of a suspicion.
const (
	stayed = "stayed"
	left   = "left"
)

// decide decides the suspicions whose time is over.
func (m *Monitor) decide() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decideLocked(m.o.Now())
}

func (m *Monitor) decideLocked(now time.Time) {
	for len(m.open) > 0 && now.Sub(m.open[0].at) >= decideAfter {
		m.left(now)
	}
}

// left decides that the oldest suspicion is right, and logs that. m.mu is held.
func (m *Monitor) left(now time.Time) {
	s := m.open[0]
	m.open = slices.Delete(m.open, 0, 1)
	if s.by != nil {
		s.by.suspected.Add(-1)
		u := &s.by.by[s.family]
		u.left.Add(1)
		u.leftAt.Store(s.at.Unix())
	}
	m.decides(s, left)
	m.unlogged++
	if !m.warned.Allow(now) {
		return
	}
	m.o.Log.Warn("a client has probably pulled past this mirror: it did not come back after an answer that sends its kind to the registry",
		"family", s.family.String(), "client", s.client.String(), "image", s.image, "answer", s.answer, "at", s.at, "since_last_warning", m.unlogged)
	m.unlogged = 0
}

// maxDecided is how many decided suspicions are kept; each takes up to 1 KiB.
const maxDecided = 256

// Suspicion is an answer after which a client may have gone to the registry
// itself.
type Suspicion struct {
	At      time.Time  `json:"at"`
	Client  netip.Addr `json:"client"`
	Family  string     `json:"family"`
	Image   string     `json:"image"`
	Answer  string     `json:"answer" doc:"Status, and why it makes clients of that family leave"`
	Outcome string     `json:"outcome" enum:"stayed,left,open" doc:"stayed: it fetched the image here after all; left: it did not within a minute; open: not decided yet"`
}

// decides counts and keeps the outcome of a suspicion. m.mu is held.
func (m *Monitor) decides(s suspicion, outcome string) {
	m.o.Metrics.Bypass.Decided(s.family.String(), outcome)
	m.decided = append(m.decided, s.told(outcome))
	m.decided = slices.Delete(m.decided, 0, max(0, len(m.decided)-maxDecided))
}

func (s *suspicion) told(outcome string) Suspicion {
	return Suspicion{At: s.at, Client: s.client, Family: s.family.String(), Image: s.image, Answer: s.answer, Outcome: outcome}
}

// Suspicions returns those that are not decided, and the last 256 that are, the
// latest first.
func (m *Monitor) Suspicions() []Suspicion {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decideLocked(m.o.Now())
	all := append([]Suspicion{}, m.decided...)
	for i := range m.open {
		all = append(all, m.open[i].told("open"))
	}
	slices.SortStableFunc(all, func(a, b Suspicion) int { return b.At.Compare(a.At) })
	return all
}

// bounded returns a copy of a text that keeps nothing else in memory.
func bounded(text string) string { return strings.Clone(text[:min(len(text), maxText)]) }
