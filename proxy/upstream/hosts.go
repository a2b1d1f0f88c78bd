package upstream

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/network"
)

// hostsKept bounds how many hosts behind one upstream are remembered: an
// upstream chooses where it redirects to.
const hostsKept = 64

// checkTimeout bounds a health check.
const checkTimeout = 10 * time.Second

// The roles of hosts.
const (
	roleRegistry = "registry"
	roleToken    = "token"    // a token service on the upstream's list
	roleRedirect = "redirect" // a redirect target such as a CDN
)

// hosts is what is known of the hosts behind one upstream, for all its clients:
// the registry, its token services, its redirect targets.
type hosts struct {
	Options
	registry string // its host and port

	spending spending // of the registry's pull limits

	troubles atomic.Int64 // counts evidence against hosts and 429s; 0 once all hosts are known to be healthy

	mu    sync.Mutex // held while a host is added, so that there is one of each
	known *memory.Memory[string, *host]
}

func newHosts(o Options) *hosts {
	return &hosts{Options: o, registry: network.HostPort(o.URL), known: memory.New[string, *host](hostsKept, nil)}
}

// of returns what is known of the host that u addresses.
func (h *hosts) of(u *url.URL) *host {
	name := network.HostPort(u)
	h.mu.Lock()
	defer h.mu.Unlock()
	if one, ok := h.known.Get(name); ok {
		return one
	}
	one := &host{hosts: h, name: name, backoff: backoff{now: h.Now}}
	one.circuit = circuit{
		now: h.Now, tryAgain: h.TryAgain, blobs: h.role(name) == roleRedirect, failed: make(map[string]outcome),
		changed: one.circuitChanged, evidence: func() { h.troubles.Add(1) },
	}
	one.check.method, one.check.url = http.MethodHead, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
	if sameOrigin(u, h.URL) {
		one.check.method, one.check.url = http.MethodGet, h.URL.JoinPath("v2/").String()
	}
	h.known.Keep(name, one)
	return one
}

func (h *hosts) all() (all []*host) {
	for _, one := range h.known.All() {
		all = append(all, one)
	}
	return all
}

// status returns the state of the hosts, by name.
func (h *hosts) status() []HostStatus {
	all := []HostStatus{}
	for _, one := range h.all() {
		s := HostStatus{Host: one.name, Role: h.role(one.name), Addresses: []netip.Addr{}}
		if one.backoff.wait() > 0 {
			s.LimitedUntil = one.backoff.ends()
		}
		one.circuit.status(&s)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b HostStatus) int { return strings.Compare(a.Host, b.Host) })
	return all
}

// role returns the role of a host.
func (h *hosts) role(name string) string {
	switch {
	case name == h.registry:
		return roleRegistry
	case slices.Contains(h.TokenHosts, name):
		return roleToken
	default:
		return roleRedirect
	}
}

// Trouble is what of an upstream is down: it does not answer, or has asked for
// a pause. A failing object is no trouble.
type Trouble struct {
	Registry bool // the registry or its token service: nothing can be fetched
	Blobs    bool // a redirect target: manifests can be fetched, blobs cannot
}

// trouble is Client.Trouble. It costs one atomic read while all is well. A host
// that has been down for a while is checked in the background.
func (h *hosts) trouble(longest time.Duration) (t Trouble) {
	seen := h.troubles.Load()
	if seen == 0 {
		return t
	}
	all, quiet := h.all(), true
	for _, one := range all {
		since, down := one.circuit.trouble()
		wait := one.backoff.wait()
		quiet = quiet && since.IsZero() && wait == 0
		if down {
			one.checkBehind()
		}
		switch {
		case !down && wait <= longest:
		case h.role(one.name) != roleRedirect:
			t.Registry = true
		case !down || !h.replaced(all, since):
			t.Blobs = true
		}
	}
	if quiet {
		h.troubles.CompareAndSwap(seen, 0) // unless there is new evidence
	}
	return t
}

// replaced reports whether blobs have come from another host since one went
// down: registries have several, and change them.
func (h *hosts) replaced(all []*host, since time.Time) bool {
	return slices.ContainsFunc(all, func(other *host) bool {
		return h.role(other.name) == roleRedirect && other.circuit.worksSince(since)
	})
}

// host is one host, and whether requests are sent to it.
type host struct {
	hosts   *hosts
	name    string
	circuit circuit
	backoff backoff
	limited logging.Throttle                  // of log lines about 429s
	check   struct{ method, url string }      // the health check
	network atomic.Pointer[http.RoundTripper] // over which it was last asked
}

// checkHealth sends a health check: to the registry GET /v2/, which any registry
// answers with 200 or 401 (OCI distribution specification, "Determining
// Support"), to other hosts HEAD of their root, which is rarely served and always
// answered. A host that answers below 500 is healthy, whatever the content.
func (h *host) checkHealth(ctx context.Context, over http.RoundTripper) health {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, h.check.method, h.check.url, nil)
	if err != nil {
		return healthUnknown
	}
	req.Header.Set("User-Agent", h.hosts.UserAgent)
	resp, err := over.RoundTrip(req)
	switch {
	case err != nil && ownFault(err):
		return healthUnknown
	case err != nil:
		return noAnswer
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 2<<10) // so that the connection can be used again
	if resp.StatusCode >= http.StatusInternalServerError {
		return unhealthy
	}
	return healthy
}

// checkBehind checks the host's health in the background, unless that was done
// lately.
func (h *host) checkBehind() {
	over := h.network.Load()
	if over != nil && h.circuit.due(max(h.hosts.TryAgain, checkPause)) {
		go func() { h.circuit.answered(h.checkHealth(context.Background(), *over)) }()
	}
}

// circuitChanged logs that the circuit opens or closes.
func (h *host) circuitChanged(to state) {
	switch to {
	case open:
		h.hosts.Log.Warn("circuit open: a host fails and gets no requests; cached content is served, and one request at intervals tests the host",
			"upstream", h.hosts.Label, "host", h.name, "try_again", h.hosts.TryAgain)
	case closed:
		h.hosts.Log.Info("circuit closed: a host that failed answers again", "upstream", h.hosts.Label, "host", h.name)
	case halfOpen:
	}
}
