package advisor

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"

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

	c := NewCapacity(time.Now)
	if _, known := c.Advice(small, large, small+large); known {
		t.Error("it knows something before the first request")
	}
	for _, r := range requests {
		i := 1
		if r.size < limit {
			i = 0
		}
		c.Saw(r.digest, r.size, i == 0, held[i].request(r), false)
	}
	requested := int64(0)
	for _, r := range requests {
		requested += r.size
	}
	if _, known := c.Advice(small, large, requested+1); known {
		t.Error("it knows something though less was requested than the cache holds")
	}
	advice, known := c.Advice(small, large, small+large)
	if !known {
		t.Fatal("it does not know")
	}
	for i, scale := range Scales {
		s, l := lru(lists[0], int64(scale*float64(small))), lru(lists[1], int64(scale*float64(large)))
		n := float64(len(lists[0])) / float64(len(requests))
		want := n*s.Requests + (1-n)*l.Requests
		t.Logf("%v times the size: %.4f of the requests, want %.4f", scale, advice.Scales[i].Requests, want)
		if math.Abs(advice.Scales[i].Requests-want) > 0.02 {
			t.Errorf("%v times the size: %+v, want %.4f of the requests", scale, advice.Scales[i], want)
		}
	}
}

// TestAdviceThatIsOff does not know what a cache would answer that evicts
// otherwise than the estimate supposes.
func TestAdviceThatIsOff(t *testing.T) {
	c := NewCapacity(time.Now)
	for _, r := range site(2000, 50_000, 0.8, 7) {
		c.Saw(r.digest, r.size, false, false, false) // never cached
	}
	if _, known := c.Advice(1<<20, 8<<30, 1<<20); known {
		t.Error("it is believed though the cache answers nothing")
	}
}

// TestSaved: a Capacity goes on where one was saved, and a damaged file is refused.
func TestSaved(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	c, requests := NewCapacity(clock), site(100_000, 200_000, 0.7, 8)
	lists := [2]*lruList{newLRU(1 << 24), newLRU(20 << 30)}
	see := func(c *Capacity, requests []request) {
		for _, r := range requests {
			if small := r.size < 1<<20; small {
				c.Saw(r.digest, r.size, small, lists[0].request(r), false)
			} else {
				c.Saw(r.digest, r.size, small, lists[1].request(r), false)
			}
		}
	}
	see(c, requests[:100_000])
	now = now.Add(5 * 24 * time.Hour)
	if _, known := c.Advice(1<<24, 20<<30, 20<<30); !known {
		t.Fatal("nothing is known")
	}
	var saved bytes.Buffer
	if err := c.Save(&saved); err != nil || saved.Len() > maxFile/2 {
		t.Fatal(saved.Len(), err)
	}
	t.Logf("%d bytes", saved.Len())
	now = now.Add(24 * time.Hour) // the box was off
	loaded := NewCapacity(clock)
	if err := loaded.Load(bytes.NewReader(saved.Bytes())); err != nil {
		t.Fatal(err)
	}
	c.since = now
	see(c, requests[100_000:])
	for i := range lists {
		lists[i] = newLRU(lists[i].limit)
	}
	see(NewCapacity(clock), requests[:100_000])
	see(loaded, requests[100_000:])
	want, _ := c.Advice(1<<24, 20<<30, 20<<30)
	if got, known := loaded.Advice(1<<24, 20<<30, 20<<30); !known || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, n := range []int{0, 10, saved.Len() / 2, saved.Len() - 1} {
		damaged := NewCapacity(clock)
		if err := damaged.Load(bytes.NewReader(saved.Bytes()[:n])); err == nil {
			t.Errorf("%d bytes of it are taken", n)
		}
		if _, known := damaged.Advice(1, 1, 1); known {
			t.Error("something is known after an error")
		}
	}
}

// TestHalved: once a month all counts are halved, and a cache of another size begins
// anew.
func TestHalved(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := NewCapacity(func() time.Time { return now })
	for _, r := range site(1000, 10_000, 0.8, 9) {
		c.Saw(r.digest, r.size, false, true, false)
	}
	seen := func() int64 { n, _ := c.lists[1].Seen(); return n }
	before := c.Measured()
	for _, tc := range []struct {
		after      time.Duration
		size, want int64
		days       int
	}{
		{29 * 24 * time.Hour, 100, 10_000, 29}, {24 * time.Hour, 100, 5_000, 15}, {60 * 24 * time.Hour, 105, 1_250, 18}, {-500 * 24 * time.Hour, 100, 1_250, 18},
		{24 * time.Hour, 150, 0, 0}, {time.Hour, 150, 0, 0},
	} {
		now = now.Add(tc.after)
		c.Advice(tc.size, 0, 0)
		if seen() != tc.want || int(c.watched/(24*time.Hour)) != tc.days {
			t.Errorf("%v later: %d requests in %v, want %d in %d days", tc.after, seen(), c.watched, tc.want, tc.days)
		}
		if tc.want > 0 && math.Abs(c.Measured().Bytes-before.Bytes) > 0.001 {
			t.Errorf("measured %v, before %v", c.Measured(), before)
		}
	}
}
