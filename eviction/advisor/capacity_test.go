package advisor

import (
	"math"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestCapacity plays a site through two LRU lists, and compares the advice with
// lists of the other sizes.
func TestCapacity(t *testing.T) {
	requests := site(5000, 100_000, 0.8, 6)
	const limit = 1 << 20 // of small objects
	var lists [2][]request
	var bytes int64
	seen := make(map[digest.Digest]bool)
	for _, r := range requests {
		i := 1
		if r.size < limit {
			i = 0
		}
		lists[i] = append(lists[i], r)
		if !seen[r.digest] {
			seen[r.digest], bytes = true, bytes+r.size
		}
	}
	small, large := bytes/200, bytes/10
	held := [2]*lruList{newLRU(small), newLRU(large)}

	c := NewCapacity()
	if _, known := c.Advice(small, large); known {
		t.Error("it knows something before the first request")
	}
	for _, r := range requests {
		i := 1
		if r.size < limit {
			i = 0
		}
		c.Saw(r.digest, r.size, i == 0, held[i].request(r))
	}
	all, known := c.Advice(small, large)
	if !known {
		t.Fatal("it does not know")
	}
	for i, scale := range Scales {
		s, l := lru(lists[0], int64(scale*float64(small))), lru(lists[1], int64(scale*float64(large)))
		n := float64(len(lists[0])) / float64(len(requests))
		want := n*s.Requests + (1-n)*l.Requests
		t.Logf("%v times the size: %.4f of the requests, want %.4f", scale, all[i].Requests, want)
		if math.Abs(all[i].Requests-want) > 0.02 {
			t.Errorf("%v times the size: %+v, want %.4f of the requests", scale, all[i], want)
		}
	}
}

// TestAdviceThatIsOff does not know what a cache would answer that evicts
// otherwise than the estimate supposes.
func TestAdviceThatIsOff(t *testing.T) {
	c := NewCapacity()
	for _, r := range site(2000, 50_000, 0.8, 7) {
		c.Saw(r.digest, r.size, false, false) // never cached
	}
	if _, known := c.Advice(1<<20, 8<<30); known {
		t.Error("it is believed though the cache answers nothing")
	}
}
