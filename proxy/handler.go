// Package proxy serves the registry API to clients. It knows HTTP and the OCI
// distribution specification. What a client gets from a repository is decided
// by package pull.
//
// The functions that serve a request return their error. Only Handler.answer
// writes the error response, the log line and the metrics.
//
// Files: handler.go (from the request to the log line), route.go, names.go and
// span.go (the parsed request), kinds.go (kinds of request and of result), notfound.go (the
// not-found limit), manifests.go, blobs.go and lists.go (the answers),
// ratelimit.go (waiting for a rate-limited registry), answer.go (the response),
// errors.go (errors as clients see them), log.go (the log line of a request),
// bypass.go and images.go (what packages images and outage are told of it).
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/bypass"
	"hubcap/proxy/pull"
	"hubcap/proxy/requests"
	"hubcap/proxy/upstream"

	"github.com/opencontainers/go-digest"
)

// Options is what a Handler needs; every field but Recent and RateLimitWait is
// required.
type Options struct {
	Upstreams *upstream.Set
	Pull      *pull.Puller
	Cache     Cache
	Clients   access.Clients
	Gateway   *access.Gateway
	Refusals  *access.Refusals
	NotFound  *access.NotFoundLimit
	Bypass    *bypass.Monitor
	Images    Images
	Drill     Drill
	Setup     Setup
	Site      Site
	Recent    *requests.Log // nil: the last requests are not kept
	// RateLimitWait is the longest that a request waits for a registry that
	// has answered 429.
	RateLimitWait time.Duration

	MinRate int64 // bytes a second; slower clients are disconnected
	Now     func() time.Time
	Sleep   func(ctx context.Context, d time.Duration) error
	Metrics *metrics.Requests
	Log     *slog.Logger
}

// Cache is the part of the cache that a Handler uses itself.
type Cache interface {
	// Degraded returns the names of what is wrong with the disk.
	Degraded() []string
	// Looked counts a lookup of an object of size bytes as a hit or a miss, which
	// may have joined a running fill. The digest of a list is empty.
	Looked(d digest.Digest, size int64, held, joined bool)
}

// Setup says how clients are configured.
type Setup interface {
	// Answer returns the response to GET /setup. client is who asks, def the
	// default registry of the port.
	Answer(r *http.Request, client netip.Addr, def string) (status int, header http.Header, body []byte)
}

// Site knows the other boxes.
type Site interface {
	// FromBox reports whether a request comes from another box, as it says. The
	// error says that it comes from this box itself.
	FromBox(h http.Header) (bool, error)
	// Has reports whether a box has this address.
	Has(address netip.Addr) bool
	// Via is what this box says of itself to other boxes.
	Via() string
}

// entry is what differs between the ports that a Handler serves.
type entry struct {
	def   *upstream.Upstream // for requests that name no registry
	login bool               // clients can log in at this port
}

// Handler serves the mirror ports.
type Handler struct {
	Options
	chunkTime time.Duration // the longest that a client may take for one cache.Chunk
	draining  atomic.Bool
	running   atomic.Int64 // requests being answered
	asked     atomic.Int64 // requests since the start
}

// New returns a Handler that serves at once.
func New(o Options) *Handler {
	return &Handler{
		Options: o, chunkTime: cache.Chunk * time.Second / time.Duration(o.MinRate),
	}
}

// Drain makes /readyz answer 503, so that load balancers send no more requests.
func (h *Handler) Drain() { h.draining.Store(true) }

// WaitQuiet returns when no request has been running or has arrived for the
// time quiet, at the latest after the time most or when ctx ends.
func (h *Handler) WaitQuiet(ctx context.Context, quiet, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for before := int64(-1); ; {
		asked := h.asked.Load()
		if h.running.Load() == 0 && asked == before {
			return
		}
		before = asked
		select {
		case <-ctx.Done():
			return
		case <-time.After(quiet):
		}
	}
}

// ServeHTTP serves a mirror port.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, entry{def: h.Upstreams.Default()})
}

// Login returns the handler of the port where clients log in to registries with
// the visibility passthrough.
func (h *Handler) Login() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, entry{def: h.Upstreams.Default(), login: true})
	})
}

// For returns the handler of a mirror port with the default registry def.
func (h *Handler) For(def *upstream.Upstream) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, entry{def: def}) })
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, at entry) {
	a := newAnswer(w, time.Now(), h.chunkTime)
	a.client = h.Clients.Behind(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
	a.family = bypass.FamilyOf(r.UserAgent())
	h.asked.Add(1)
	h.running.Add(1)
	defer h.running.Add(-1)
	h.Metrics.Started()
	if r.ContentLength != 0 {
		// A request needs no body. It is not read, and not waited for.
		a.set("Connection", "close")
		defer a.endBody()
	}
	rt, err := h.serveGuarded(a, r, at)
	a.kind = rt.kind
	cut := false
	if err != nil {
		cut = h.fail(a, r, rt, err)
	}
	h.Metrics.Done(a.kind.String(), a.result.String(), a.sent, a.firstByte)
	h.countLookup(a, r)
	h.countNotFound(a, rt, err)
	a.took = time.Since(a.began)
	h.log(a, r, rt, err)
	h.keep(a, r, rt, err)
	h.watch(a, r, rt, err)
	h.noteImage(a, r, rt)
	h.drill(a, r, rt)
	if cut {
		// The client must see that the response is incomplete.
		panic(http.ErrAbortHandler)
	}
}

// countLookup counts a cache hit or miss, once per answer: the rooms below look
// up an object several times for one request. A HEAD is not counted, because a
// HEAD that misses does not fetch the content.
func (h *Handler) countLookup(a *answer, r *http.Request) {
	if r.Method != http.MethodGet {
		return
	}
	size := a.size
	if size < 0 {
		size = a.sent
	}
	switch a.result {
	case resultHit, resultConfirmed, resultStale:
		h.Cache.Looked(a.digest, size, true, false)
	case resultMiss, resultJoined, resultUncached:
		h.Cache.Looked(a.digest, size, false, a.result == resultJoined)
	}
}

// serveGuarded calls serve and turns a panic into a 500 response.
func (h *Handler) serveGuarded(a *answer, r *http.Request, at entry) (rt route, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.Metrics.Panicked()
			h.Log.Error("a request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	return h.serve(a, r, at)
}

func (h *Handler) serve(a *answer, r *http.Request, at entry) (route, error) {
	rt, err := parseRoute(r, h.Upstreams, at.def)
	a.set("X-Content-Type-Options", "nosniff")
	if !rt.live && !rt.ready {
		a.set("Docker-Distribution-Api-Version", "registry/2.0")
		h.Gateway.Saw(a.client)
		if !h.Clients.Allow(a.client) {
			h.Refusals.Client(a.client)
			a.notAllowed = true
			return rt, notAllowed(a.client)
		}
	}
	if err != nil {
		if rt.unknown != "" {
			h.Refusals.Registry(rt.unknown, a.client)
		}
		return rt, err
	}
	if rt.ns != "" {
		a.set("Oci-Namespace", rt.ns)
	}
	var loop error
	if rt.peer, loop = h.Site.FromBox(r.Header); rt.peer {
		if via := h.Site.Via(); via != "" {
			a.set("Via", via)
		}
	}
	switch {
	case rt.live:
		return rt, h.serveHealth(a, r, true)
	case rt.ready:
		return rt, h.serveHealth(a, r, !h.draining.Load())
	case rt.setup && at.login:
		return rt, errNoRoute
	case rt.setup:
		return rt, h.serveSetup(a, r, at.def)
	case rt.kind == kindPing && at.login && rt.upstream.Relay != nil:
		return rt, h.pingOwn(a, r, rt)
	case rt.kind == kindPing:
		return rt, h.servePing(a, r)
	}
	if loop != nil {
		h.Log.Error("HUBCAP_SITE has this box under two names, or HUBCAP_SITE_SELF is wrong", "client", a.client)
		return rt, errLoop
	}
	a.held = onlyIfCached(r.Header)
	err = h.retryLimited(r.Context(), a, func() error {
		repo, err := h.admit(a, r, rt, at.login)
		if err == nil && !a.held {
			err = h.checkUncached(a, rt, repo)
		}
		if err == nil {
			err = h.serveContent(a, r, rt, repo)
		}
		return fromPull(err, rt.kind)
	})
	return rt, err
}

// admit returns the repository that a request asks for. Where clients log in,
// the client's token must be proved at the registry before cached content is
// served. A list proves nothing, so an unproved client gets it from the registry.
func (h *Handler) admit(a *answer, r *http.Request, rt route, login bool) (pull.Repository, error) {
	repo, err := h.Pull.Repository(rt.upstream, rt.name, pull.Identity{Login: login, Token: bearer(r), Peer: rt.peer, Held: a.held})
	a.view = repo.View
	if a.view != access.Open {
		h.Metrics.Restricted(a.view.String())
	}
	if err != nil || a.held || repo.Proved() || rt.kind != kindBlob && rt.kind != kindManifest {
		return repo, err
	}
	if err := h.checkNotFound(a); err != nil {
		return repo, err
	}
	return repo.Prove(r.Context(), rt.reference())
}

// bearer returns the client's bearer token. A password (Basic) is ignored.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return token
}

// onlyIfCached reports whether a client asks for what is held alone (RFC 9111, 5.2.1.7).
func onlyIfCached(h http.Header) bool {
	for _, line := range h.Values("Cache-Control") {
		for one := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(one), "only-if-cached") {
				return true
			}
		}
	}
	return false
}

// serveContent answers from a repository.
func (h *Handler) serveContent(a *answer, r *http.Request, rt route, repo pull.Repository) error {
	switch rt.kind {
	case kindManifest:
		return h.serveManifest(a, r, rt, repo)
	case kindBlob:
		return h.serveBlob(a, r, rt, repo)
	case kindReferrers:
		return h.serveReferrers(a, r, rt, repo)
	default:
		return h.serveTags(a, r, rt, repo)
	}
}

// pingOwn answers GET /v2/ of a registry that clients log in to: the registry
// decides.
func (h *Handler) pingOwn(a *answer, r *http.Request, rt route) error {
	a.view = access.Own
	if err := rt.upstream.Relay.As(bearer(r)).Ping(r.Context()); err != nil {
		return err
	}
	return h.servePing(a, r)
}

// servePing answers GET /v2/ with 200, whatever the state of the upstreams.
func (h *Handler) servePing(a *answer, r *http.Request) error {
	a.set("Content-Type", "application/json")
	return a.local(r, http.StatusOK, "{}\n")
}

func (h *Handler) serveHealth(a *answer, r *http.Request, well bool) error {
	a.set("Content-Type", "text/plain; charset=utf-8")
	if !well {
		return a.local(r, http.StatusServiceUnavailable, "draining\n")
	}
	if troubles := h.Cache.Degraded(); len(troubles) > 0 {
		return a.local(r, http.StatusOK, "degraded: "+strings.Join(troubles, ", ")+"\n")
	}
	return a.local(r, http.StatusOK, "ok\n")
}

// serveSetup answers GET /setup of a mirror port with the default registry def.
func (h *Handler) serveSetup(a *answer, r *http.Request, def *upstream.Upstream) error {
	status, header, body := h.Setup.Answer(r, a.client, def.Host)
	maps.Copy(a.w.Header(), header)
	err := a.local(r, status, string(body))
	if status >= http.StatusBadRequest {
		a.result = resultRefused
	}
	return err
}

// local answers with a text that hubcap makes itself.
func (a *answer) local(r *http.Request, status int, body string) error {
	a.madeFrom(resultLocal)
	a.head(status, int64(len(body)))
	return a.body(r, []byte(body))
}

// body writes p, except for HEAD.
func (a *answer) body(r *http.Request, p []byte) error {
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := a.Write(p)
	return err
}

// fail writes the error response. It reports whether the connection must be cut
// because the head of a response has already been written.
func (h *Handler) fail(a *answer, r *http.Request, rt route, err error) (cut bool) {
	if a.status != 0 {
		h.countCut(a, r, err)
		return true
	}
	if r.Context().Err() != nil { // the client has left
		h.Metrics.Aborted()
		a.result = resultFailed
		return true
	}
	api, challenge := toAPI(err, rt.kind, a.view)
	if challenge != "" {
		a.set("Www-Authenticate", challenge)
	}
	a.result, a.refusal = api.result, api
	a.set("Content-Type", "application/json")
	if a.w.Header().Get("Cache-Status") == "" {
		a.set("Cache-Status", "hubcap; detail="+strings.ToLower(api.code))
	}
	if api.status == http.StatusMethodNotAllowed {
		a.set("Allow", "GET, HEAD")
		a.set("Connection", "close")
	}
	if wait := retryAfter(err); wait != "" && (api == errLimited || api == errUnasked || api == errOverLimit || api == errElsewhere) {
		a.set("Retry-After", wait)
	}
	body := api.body()
	a.head(api.status, int64(len(body)))
	return a.body(r, body) != nil
}

// countCut counts an incomplete response by its cause: the client was too slow,
// the client left, or hubcap had to cut it.
func (h *Handler) countCut(a *answer, r *http.Request, err error) {
	if a.late {
		h.Metrics.Limited(metrics.ClientTooSlow)
		return
	}
	if a.gone || r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		h.Metrics.Aborted()
		return
	}
	a.cut = true
	h.Metrics.Cut()
}
