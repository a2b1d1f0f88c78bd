package proxy

import (
	"errors"
	"net/http"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/freshness"
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
func (h *Handler) afford(a *answer, rt route) error {
	if h.Misses.Wait(a.client) == 0 || h.known(rt) {
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

// known tells what is held, or known to exist.
func (h *Handler) known(rt route) (known bool) {
	switch repo := h.repository(rt); {
	case rt.as.barred:
	case rt.kind == metrics.KindManifest && rt.tag != "":
		known = h.Freshness.Knows(repo, rt.tag)
	case rt.kind == metrics.KindManifest:
		_, known = h.Cache.Manifest(rt.digest)
	case rt.kind == metrics.KindBlob:
		known = h.sizes.of(rt) >= 0 || h.Cache.Has(h.want(rt, rt.digest, -1))
	case rt.kind == metrics.KindReferrers:
		known = h.Freshness.KnowsReferrers(repo, rt.digest)
	case rt.kind == metrics.KindTags:
		known = h.Freshness.KnowsTags(repo)
	}
	return known
}

// countMiss notes what a registry was asked in vain: it has no such thing, or
// does not let this client in, or what it said is kept nowhere.
func (h *Handler) countMiss(a *answer, rt route, err error) {
	var up *upstream.Error
	refused := errors.As(err, &up) && !up.Failing() && !freshness.Remembered(err)
	passed := err == nil && a.result == metrics.ResultPassed && rt.kind != metrics.KindManifest
	if refused || passed || a.vain {
		h.Misses.Missed(a.client)
	}
}
