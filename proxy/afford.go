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

// misspent is what a client is told that has had registries asked in vain too
// often.
type misspent struct {
	*apiError
	wait time.Duration // until something is asked for it again
}

func (e *misspent) Unwrap() error { return e.apiError }

var errMisspent = refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "you have asked for too much that does not exist; this mirror asks no registry for you at present")

// afford refuses a client that has asked for too much in vain what a registry
// would have to be asked for. What is held it gets, and what a pull under way
// is made of.
func (h *Handler) afford(a *answer, rt route, repo pull.Repository) error {
	if h.Misses.Wait(a.client) == 0 || known(rt, repo) {
		return nil
	}
	return h.mayAsk(a)
}

// mayAsk refuses a client that has asked for too much in vain.
func (h *Handler) mayAsk(a *answer) error {
	wait := h.Misses.Wait(a.client)
	if wait == 0 {
		return nil
	}
	h.Metrics.Limited(metrics.ClientMisses)
	return &misspent{errMisspent, wait}
}

// known reports whether what is asked for is held, or known to exist.
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

// countMiss notes what a registry was asked in vain: it has no such thing, or
// does not let this client in, or what it said is kept nowhere.
func (h *Handler) countMiss(a *answer, rt route, err error) {
	var up *upstream.Error
	refused := errors.As(err, &up) && !up.Failing() && !freshness.Remembered(err)
	passed := err == nil && a.result == resultPassed && rt.kind != kindManifest
	if refused || passed || a.notFound {
		h.Misses.Missed(a.client)
	}
}
