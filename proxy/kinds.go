package proxy

import (
	"hubcap/cache"
	"hubcap/proxy/freshness"
)

// kind is what a request asks for.
type kind uint8

// The kinds of request that a mirror port knows.
const (
	kindOther     kind = iota // health, and whatever is no part of the registry protocol
	kindPing                  // GET /v2/
	kindManifest              // …/manifests/<tag or digest>
	kindBlob                  // …/blobs/<digest>
	kindTags                  // …/tags/list
	kindReferrers             // …/referrers/<digest>
)

var kindNames = [...]string{"other", "ping", "manifest", "blob", "tags", "referrers"}

func (k kind) String() string { return kindNames[k] }

// result is what an answer was made from.
type result uint8

// The results, one for each answer.
const (
	resultLocal     result = iota // answered by hubcap itself: ping, health
	resultHit                     // held, no upstream asked
	resultConfirmed               // held, and the upstream says it is still so
	resultStale                   // held, the upstream failed
	resultMiss                    // fetched for this request, and kept
	resultJoined                  // read along with a fill that another request began
	resultUncached                // streamed through, not kept
	resultForwarded               // forwarded to the upstream and not stored, by design: a HEAD of uncached content, a list that is too long
	resultNotFound                // the upstream does not have it, or nobody may pull it
	resultRefused                 // grammar, method, unknown registry, client not allowed
	resultLimited                 // the upstream's rate limit
	resultFailed                  // the upstream or hubcap failed
)

var resultNames = [...]string{
	"local", "hit", "confirmed", "stale", "miss", "joined", "uncached", "forwarded", "not_found", "refused", "limited", "failed",
}

func (r result) String() string { return resultNames[r] }

// cacheStatus is the Cache-Status (RFC 9211) of each result, unless the response
// has a more particular one.
var cacheStatus = [...]string{
	resultLocal:     "hubcap",
	resultHit:       "hubcap; hit",
	resultConfirmed: "hubcap; fwd=stale; fwd-status=200",
	resultStale:     "hubcap; fwd=stale; detail=upstream-failed",
	resultMiss:      "hubcap; fwd=uri-miss; stored",
	resultJoined:    "hubcap; fwd=uri-miss; collapsed",
	resultUncached:  "hubcap; fwd=uri-miss; detail=not-kept",
	resultForwarded: "hubcap; fwd=uri-miss",
}

// ofOrigin and ofState are the results for where a blob, and a manifest or list,
// comes from.
var (
	ofOrigin = [...]result{cache.Held: resultHit, cache.Filling: resultMiss, cache.Joined: resultJoined, cache.Uncached: resultUncached}
	ofState  = [...]result{
		freshness.Fresh: resultHit, freshness.Confirmed: resultConfirmed, freshness.Stale: resultStale, freshness.Earlier: resultStale,
		freshness.Fetched: resultMiss, freshness.Joined: resultJoined, freshness.HeadOnly: resultForwarded,
	}
)

// madeFrom records what the response is made from, and sets its Cache-Status.
func (a *answer) madeFrom(r result) {
	a.result = r
	a.set("Cache-Status", cacheStatus[r])
}

// at adds to that the place that a blob comes from, if it is not its registry.
func (a *answer) at(place string) {
	if a.place = place; place != "" {
		a.set("Cache-Status", cacheStatus[a.result]+"; detail="+place)
	}
}
