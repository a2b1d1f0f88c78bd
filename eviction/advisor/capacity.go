package advisor

import (
	"math"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Scales are the sizes that Capacity advises on, as multiples of the present one.
var Scales = []float64{0.25, 0.5, 1, 2, 4, 8}

// tolerated is how far the estimate for the present size may be from the measured
// hit ratio for the others to be believed.
const tolerated = 0.05

// Capacity estimates what a cache of another size would answer. The cache has
// two lists, for small and for large objects, each with its share of the size.
type Capacity struct {
	lists           [2]*Advisor // small, large
	hits, hitBytes  atomic.Int64
	requests, bytes atomic.Int64
}

// NewCapacity returns a Capacity that has seen nothing. It takes at most 8 MiB.
func NewCapacity() *Capacity { return &Capacity{lists: [2]*Advisor{New(Samples), New(Samples)}} }

// Saw counts a request for an object of size bytes, whether it belongs to the
// list of small objects, and whether it was cached.
func (c *Capacity) Saw(d digest.Digest, size int64, small, cached bool) {
	if size < 0 {
		return
	}
	list := 1
	if small {
		list = 0
	}
	c.lists[list].Saw(d, size)
	c.requests.Add(1)
	c.bytes.Add(size)
	if cached {
		c.hits.Add(1)
		c.hitBytes.Add(size)
	}
}

// At returns the estimate for lists of the given bytes.
func (c *Capacity) At(small, large int64) Estimate {
	var requests, bytes, hits, hitBytes float64
	for i, size := range []int64{small, large} {
		n, b := c.lists[i].Seen()
		e := c.lists[i].At(size)
		requests, bytes = requests+float64(n), bytes+float64(b)
		hits, hitBytes = hits+e.Requests*float64(n), hitBytes+e.Bytes*float64(b)
	}
	if requests == 0 || bytes == 0 {
		return Estimate{}
	}
	return Estimate{Requests: hits / requests, Bytes: hitBytes / bytes}
}

// Advice returns the estimates for the Scales of lists that have the given bytes
// at present. known is false while they cannot be relied on: fewer bytes were
// requested than the cache holds, or the estimate for the present size is off by
// more than 5 points from what was measured.
func (c *Capacity) Advice(small, large int64) (all []Estimate, known bool) {
	requests, bytes := float64(c.requests.Load()), float64(c.bytes.Load())
	if requests == 0 || bytes < float64(small+large) {
		return nil, false
	}
	for _, scale := range Scales {
		all = append(all, c.At(int64(scale*float64(small)), int64(scale*float64(large))))
	}
	now := c.At(small, large)
	known = math.Abs(now.Requests-float64(c.hits.Load())/requests) <= tolerated &&
		math.Abs(now.Bytes-float64(c.hitBytes.Load())/bytes) <= tolerated
	return all, known
}
