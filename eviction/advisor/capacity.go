package advisor

import (
	"math"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxFactor is how much larger or smaller than the cache the LRU list may be that
// answers as much as it does.
const maxFactor = 4

// Scales are the sizes that Capacity advises on, as multiples of the present one.
var Scales = []float64{0.25, 0.5, 1, 2, 4, 8}

const (
	// tolerated is how far the estimate for the present size may be from the measured
	// hit ratio for the others to be believed.
	tolerated = 0.05
	// halvedEvery is how often all counts are halved, so that what was long ago
	// counts little.
	halvedEvery = 30 * 24 * time.Hour
	// sameSize is by which share the size may change without the counts beginning
	// anew: what was measured is of the size before.
	sameSize = 0.1
	week     = 7 * 24 * time.Hour
)

// Capacity estimates what a cache of another size would answer. The cache has
// two lists, for small and for large objects, each with its share of the size.
type Capacity struct {
	lists [2]*Advisor // small, large
	now   func() time.Time

	mu      sync.Mutex // taken before those of the lists
	size    int64      // of the cache whose requests were counted
	watched time.Duration
	since   time.Time // up to when watched is right
	halved  time.Time // last
}

// NewCapacity returns a Capacity that has seen nothing. It takes at most 8 MiB.
func NewCapacity(now func() time.Time) *Capacity {
	return &Capacity{lists: [2]*Advisor{New(Samples), New(Samples)}, now: now, since: now(), halved: now()}
}

// list returns the list of small objects, or that of the others.
func (c *Capacity) list(small bool) *Advisor {
	if small {
		return c.lists[0]
	}
	return c.lists[1]
}

// Saw counts a request for an object of size bytes, whether it belongs to the
// list of small objects, and whether it was held or joined a running download.
func (c *Capacity) Saw(d digest.Digest, size int64, small, held, joined bool) {
	c.list(small).Saw(d, size, held, joined)
}

// Used notes that an object is used with its image.
func (c *Capacity) Used(d digest.Digest, small bool) { c.list(small).Used(d) }

// Fetched notes that an object of size bytes was stored.
func (c *Capacity) Fetched(d digest.Digest, size int64, small bool) { c.list(small).Fetched(d, size) }

// together returns what both lists answer.
func (c *Capacity) together(of func(list int) Estimate) (all Estimate) {
	var requests, bytes float64
	for i, list := range c.lists {
		n, b := list.Seen()
		e := of(i)
		requests, bytes = requests+float64(n), bytes+float64(b)
		all.Requests, all.Bytes = all.Requests+e.Requests*float64(n), all.Bytes+e.Bytes*float64(b)
	}
	if requests == 0 || bytes == 0 {
		return Estimate{}
	}
	return Estimate{Requests: all.Requests / requests, Bytes: all.Bytes / bytes}
}

// At returns the estimate for lists of the given bytes.
func (c *Capacity) At(small, large int64) Estimate {
	return c.together(func(list int) Estimate { return c.lists[list].At([]int64{small, large}[list]) })
}

// Measured returns which share of the requests, and of their bytes, was held.
func (c *Capacity) Measured() Estimate {
	return c.together(func(list int) Estimate { return c.lists[list].Measured() })
}

// Advice is what caches of other sizes would answer.
type Advice struct {
	Scales []Estimate // as Scales has them
	// Week is how many bytes a week each of them would fetch less than the present
	// one; negative for more. It is empty before a day has passed.
	Week []int64
}

// Advice returns the estimates for the Scales of lists that have the given bytes
// at present, of a cache that holds some bytes. known is false while they cannot be
// relied on: fewer bytes were requested than the cache holds, or no estimate for an
// LRU list of a quarter to four times the size comes within 5 points of what was
// measured.
func (c *Capacity) Advice(small, large, holds int64) (a Advice, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age(small + large)
	_, ofSmall := c.lists[0].Seen()
	_, ofLarge := c.lists[1].Seen()
	bytes := ofSmall + ofLarge
	if bytes == 0 || bytes < holds {
		return Advice{}, false
	}
	at := func(scale float64) Estimate { return c.At(int64(scale*float64(small)), int64(scale*float64(large))) }
	requests := func(scale float64) float64 { return at(scale).Requests }
	ofBytes := func(scale float64) float64 { return at(scale).Bytes }
	measured := c.Measured()
	n, b := factor(requests, measured.Requests), factor(ofBytes, measured.Bytes)
	for _, scale := range Scales {
		e := Estimate{Requests: requests(scale * n), Bytes: ofBytes(scale * b)}
		a.Scales = append(a.Scales, e)
		if c.watched >= 24*time.Hour {
			a.Week = append(a.Week, int64((e.Bytes-ofBytes(b))*float64(bytes)*float64(week)/float64(c.watched)))
		}
	}
	return a, math.Abs(requests(n)-measured.Requests) <= tolerated && math.Abs(ofBytes(b)-measured.Bytes) <= tolerated
}

// factor returns by how much an LRU list is larger than the cache that answers as
// much as was measured: eviction knows images and sizes, and answers more than an
// LRU list of the same size (TestAdvice compares them).
func factor(at func(scale float64) float64, measured float64) float64 {
	low, high := 1./maxFactor, float64(maxFactor)
	switch now := at(1); {
	case math.Abs(now-measured) < 0.001:
		return 1
	case now < measured:
		low = 1
	default:
		high = 1
	}
	for range 20 {
		if middle := math.Sqrt(low * high); at(middle) < measured {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// age counts the time, halves the counts once a month, and has them begin anew for
// a cache of another size. c.mu is held.
func (c *Capacity) age(size int64) {
	now := c.now()
	c.watched += max(now.Sub(c.since), 0)
	c.since = now
	if now.Before(c.halved) { // the clock was set back
		c.halved = now
	}
	for ; now.Sub(c.halved) >= halvedEvery; c.halved = c.halved.Add(halvedEvery) {
		c.scale(0.5)
	}
	if c.size > 0 && math.Abs(float64(size-c.size)) > sameSize*float64(c.size) {
		c.scale(0)
		c.size = 0
	}
	if c.size == 0 {
		c.size = size
	}
}

func (c *Capacity) scale(factor float64) {
	c.watched = time.Duration(factor * float64(c.watched))
	for _, list := range c.lists {
		list.scale(factor)
	}
}
