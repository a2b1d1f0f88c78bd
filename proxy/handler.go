// Package proxy answers clients of a registry from the cache and, where it
// must, from the registries behind it. It knows HTTP and the OCI distribution
// API; what a client is given from a repository is for the room pull.
//
// A handler returns an error and does not report it: ServeHTTP alone renders,
// logs and counts.
//
// Files: handler.go (the frame), route.go, names.go and span.go (the request),
// kinds.go (what it asks for, and what the answer is made from), afford.go (the
// not-found limit), manifests.go, blobs.go and lists.go (the answers),
// patience.go (waiting while a registry is limited), answer.go (the response),
// errors.go (what clients are told), log.go (what the operator is told).
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/pull"
	"hubcap/proxy/quota"
	"hubcap/proxy/upstream"
)

// Options is what a Handler needs; every field but RateLimitWait is
// required.
type Options struct {
	Upstreams *upstream.Set
	Pull      *pull.Puller
	Cache     Cache
	Clients   access.Clients
	Gateway   *access.Gateway
	Misses    *quota.Misses
	// RateLimitWait is how long a miss is held at most while its registry
	// wants to be left alone.
	RateLimitWait time.Duration

	MinRate int64 // bytes a second; a client that takes less of an answer is cut
	Now     func() time.Time
	Sleep   func(ctx context.Context, d time.Duration) error
	Metrics *metrics.Requests
	Log     *slog.Logger
}

// Cache is what a Handler asks of the cache itself: the rest is for pull.
type Cache interface {
	// Degraded names what is wrong with the disk.
	Degraded() []string
	// Looked counts a request for an object of size bytes, and whether it was held.
	Looked(size int64, held bool)
}

// door is what differs between the ports that a Handler answers at.
type door struct {
	def   *upstream.Upstream // for requests that name no registry
	login bool               // whether clients log in there
}

// Handler answers at the mirror ports.
type Handler struct {
	Options
	patience time.Duration // with a client, for one cache.Chunk
	draining atomic.Bool
	running  atomic.Int64 // answers
	asked    atomic.Int64 // requests so far
}

// New returns a Handler that is ready.
func New(o Options) *Handler {
	return &Handler{
		Options: o, patience: cache.Chunk * time.Second / time.Duration(o.MinRate),
	}
}

// Drain has /readyz say that no more requests should come.
func (h *Handler) Drain() { h.draining.Store(true) }

// Ready tells whether requests should come.
func (h *Handler) Ready() bool { return !h.draining.Load() }

// WaitQuiet returns when no answer has been running and nothing was asked for
// the time quiet, at the latest after most or when ctx ends.
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

// ServeHTTP answers one request at a port where nobody logs in.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, door{def: h.Upstreams.Default()})
}

// Login is the handler of a port at which clients can log in to the registries
// that let them do so through hubcap.
func (h *Handler) Login() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, door{def: h.Upstreams.Default(), login: true})
	})
}

// For is the handler of a mirror port where def is asked for what names no
// registry.
func (h *Handler) For(def *upstream.Upstream) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, door{def: def}) })
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, at door) {
	a := newAnswer(w, time.Now(), h.patience)
	a.client = h.Clients.Behind(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
	h.asked.Add(1)
	h.running.Add(1)
	defer h.running.Add(-1)
	h.Metrics.Started()
	if r.ContentLength != 0 {
		// Nobody reads what a body brings, and the answer does not wait for it.
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
	h.countMiss(a, rt, err)
	h.log(a, r, rt, err)
	if cut {
		// The client must not take what it has for the whole.
		panic(http.ErrAbortHandler)
	}
}

// countLookup counts whether the content that a client asked for was held. It
// does so once an answer, since what lies below looks several times for one. A
// HEAD asks for no content: to count those that found it, and not those that
// the upstream answered, would flatter the cache.
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
		h.Cache.Looked(size, true)
	case resultMiss, resultJoined, resultUncached:
		h.Cache.Looked(size, false)
	}
}

// serveGuarded is serve, whose bugs cost one answer.
func (h *Handler) serveGuarded(a *answer, r *http.Request, at door) (rt route, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.Metrics.Panicked()
			h.Log.Error("a request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	return h.serve(a, r, at)
}

func (h *Handler) serve(a *answer, r *http.Request, at door) (route, error) {
	rt, err := parseRoute(r, h.Upstreams, at.def)
	a.set("X-Content-Type-Options", "nosniff")
	if !rt.live && !rt.ready {
		a.set("Docker-Distribution-Api-Version", "registry/2.0")
		h.Gateway.Saw(a.client)
		if !h.Clients.Allow(a.client) {
			return rt, errNotAllowed
		}
	}
	if err != nil {
		return rt, err
	}
	if rt.ns != "" {
		a.set("Oci-Namespace", rt.ns)
	}
	switch {
	case rt.live:
		return rt, h.serveHealth(a, r, true)
	case rt.ready:
		return rt, h.serveHealth(a, r, h.Ready())
	case rt.kind == kindPing && at.login && rt.upstream.Relay != nil:
		return rt, h.pingOwn(a, r, rt)
	case rt.kind == kindPing:
		return rt, h.servePing(a, r)
	}
	err = h.patiently(r.Context(), a, func() error {
		repo, err := h.admit(a, r, rt, at.login)
		if err == nil {
			err = h.afford(a, rt, repo)
		}
		if err == nil {
			err = h.serveContent(a, r, rt, repo)
		}
		return fromPull(err, rt.kind)
	})
	return rt, err
}

// admit opens the repository that a request asks for. A client's own token is
// tried at the registry before anything that is held is looked at, except for
// lists: who has not been seen to pull is given the registry's own.
func (h *Handler) admit(a *answer, r *http.Request, rt route, login bool) (pull.Repository, error) {
	repo, err := h.Pull.Repository(rt.upstream, rt.name, pull.Identity{Login: login, Token: bearer(r)})
	a.view = repo.View
	if a.view != access.Open {
		h.Metrics.Closed(a.view.String())
	}
	if err != nil || repo.Proved() || rt.kind != kindBlob && rt.kind != kindManifest {
		return repo, err
	}
	if err := h.mayAsk(a); err != nil {
		return repo, err
	}
	return repo.Prove(r.Context(), rt.reference())
}

// bearer is the token that a client shows. A password is none of hubcap's
// business, and counts as nothing shown.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return token
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

// pingOwn answers GET /v2/ of a registry that clients log in to.
func (h *Handler) pingOwn(a *answer, r *http.Request, rt route) error {
	a.view = access.Own
	if err := rt.upstream.Relay.As(bearer(r)).Ping(r.Context()); err != nil {
		return err
	}
	return h.servePing(a, r)
}

// servePing answers GET /v2/: always at once, whatever the upstreams do.
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

// local answers with a text of hubcap's own.
func (a *answer) local(r *http.Request, status int, body string) error {
	a.result = resultLocal
	a.set("Cache-Status", "hubcap")
	a.head(status, int64(len(body)))
	return a.body(r, []byte(body))
}

// body sends p, unless it is a HEAD.
func (a *answer) body(r *http.Request, p []byte) error {
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := a.Write(p)
	return err
}

// fail answers with an error. Where the head has been written already the
// answer must be cut.
func (h *Handler) fail(a *answer, r *http.Request, rt route, err error) (cut bool) {
	if a.status != 0 {
		h.countCut(a, r, err)
		return true
	}
	if r.Context().Err() != nil { // nobody is there to be told
		h.Metrics.Aborted()
		a.result = resultFailed
		return true
	}
	api, challenge := toAPI(err, rt.kind, a.view)
	if challenge != "" {
		a.set("Www-Authenticate", challenge)
	}
	a.result = api.result
	a.set("Content-Type", "application/json")
	if a.w.Header().Get("Cache-Status") == "" {
		a.set("Cache-Status", "hubcap; detail="+strings.ToLower(api.code))
	}
	if api.status == http.StatusMethodNotAllowed {
		a.set("Allow", "GET, HEAD")
		a.set("Connection", "close")
	}
	if wait := retryAfter(err); wait != "" && (api == errLimited || api == errUnasked || api == errMisspent) {
		a.set("Retry-After", wait)
	}
	body := api.body()
	a.head(api.status, int64(len(body)))
	return a.body(r, body) != nil
}

// countCut tells a client that was too slow, and one that went, from an answer
// that hubcap had to end.
func (h *Handler) countCut(a *answer, r *http.Request, err error) {
	if a.late {
		h.Metrics.Limited(metrics.ClientTooSlow)
		return
	}
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		h.Metrics.Aborted()
		return
	}
	h.Metrics.Cut()
}
