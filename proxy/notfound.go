package proxy

import (
	"errors"
	"net/http"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
	"hubcap/proxy/upstream"
)

// overLimit is the error of a client that has caused too many not-found
// responses.
type overLimit struct {
	*apiError
	wait time.Duration // until the client is below the limit
}

func (e *overLimit) Unwrap() error { return e.apiError }

var errOverLimit = refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "you have requested too much that does not exist; this mirror sends no requests to registries for you at present")

// checkUncached returns an error if a client over the not-found limit requests
// what the cache does not hold. Content that a manifest of the repository names
// is exempt: it exists.
func (h *Handler) checkUncached(a *answer, rt route, repo pull.Repository) error {
	if h.NotFound.Wait(a.client) == 0 || known(rt, repo) || rt.peer && h.Site.Has(a.client) {
		return nil
	}
	return h.checkNotFound(a)
}

// checkNotFound returns an error if a client is over the not-found limit.
func (h *Handler) checkNotFound(a *answer) error {
	wait := h.NotFound.Wait(a.client)
	if wait == 0 {
		return nil
	}
	h.Metrics.Limited(metrics.ClientNotFound)
	return &overLimit{errOverLimit, wait}
}

// known reports whether what is requested is cached or known to exist.
func known(rt route, repo pull.Repository) bool {
	switch rt.kind {
	case kindReferrers:
		return repo.KnowsReferrers(rt.digest)
	case kindTags:
		return repo.KnowsTags()
	default:
		return repo.Knows(rt.reference())
	}
}

// countNotFound counts an answer towards the client's not-found limit if an
// upstream was asked and does not have the content or refused this client, or
// if its response is not cached and is fetched again for each request.
func (h *Handler) countNotFound(a *answer, rt route, err error) {
	if rt.peer && h.Site.Has(a.client) { // it counts its own clients
		return
	}
	var up *upstream.Error
	refused := errors.As(err, &up) && !up.Failing() && !freshness.Remembered(err)
	forwarded := err == nil && a.result == resultForwarded && rt.kind != kindManifest
	if refused || forwarded || a.notFound {
		h.NotFound.Count(a.client)
	}
}
