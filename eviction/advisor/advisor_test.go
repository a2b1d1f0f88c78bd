package advisor

import (
	"container/list"
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// request is one request of an object.
type request struct {
	digest digest.Digest
	size   int64
}

// lruList is an LRU list.
type lruList struct {
	limit, used int64
	order       *list.List
	held        map[digest.Digest]*list.Element
}

func newLRU(limit int64) *lruList {
	return &lruList{limit: limit, order: list.New(), held: make(map[digest.Digest]*list.Element)}
}

// request reports whether the list holds what is requested, and puts it there.
func (l *lruList) request(r request) bool {
	if e, ok := l.held[r.digest]; ok {
		l.order.MoveToFront(e)
		return true
	}
	if r.size > l.limit {
		return false
	}
	l.held[r.digest] = l.order.PushFront(r)
	for l.used += r.size; l.used > l.limit; {
		out := l.order.Remove(l.order.Back()).(request)
		delete(l.held, out.digest)
		l.used -= out.size
	}
	return false
}

// lru returns what an LRU list of limit bytes answers.
func lru(requests []request, limit int64) Estimate {
	l := newLRU(limit)
	var hits, bytes, hitBytes float64
	for _, r := range requests {
		bytes += float64(r.size)
		if l.request(r) {
			hits, hitBytes = hits+1, hitBytes+float64(r.size)
		}
	}
	return Estimate{Requests: hits / float64(len(requests)), Bytes: hitBytes / bytes}
}

// site makes the requests of a site: layers with log-normal sizes, pulled by
// Zipf's law.
func site(layers, n int, s float64, seed uint64) []request {
	random := rand.New(rand.NewPCG(seed, 1))
	sum, weights := 0.0, make([]float64, layers)
	for i := range weights {
		sum += math.Pow(float64(i+1), -s)
		weights[i] = sum
	}
	objects := make([]request, layers)
	for i := range objects {
		size := math.Exp(15 + 2*random.NormFloat64()) // 3 MiB at the median
		objects[i] = request{digest.FromString(fmt.Sprint(seed, i)), int64(min(size, 8<<30)) + 1}
	}
	requests := make([]request, n)
	for i := range requests {
		x := random.Float64() * sum
		lo, hi := 0, layers-1
		for lo < hi {
			if mid := (lo + hi) / 2; weights[mid] < x {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		requests[i] = objects[lo]
	}
	return requests
}

// trace is the production trace that TEST_TRACE names, or nil.
func trace(t *testing.T) (requests []request) {
	t.Helper()
	file := os.Getenv("TEST_TRACE")
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, row := range rows[1:] {
		if strings.HasPrefix(row[1], "GET") {
			size, err := strconv.ParseInt(row[3], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sizes[row[2]] = max(sizes[row[2]], size)
			requests = append(requests, request{digest: digest.FromString(row[2])})
		}
	}
	i := 0
	for _, row := range rows[1:] {
		if strings.HasPrefix(row[1], "GET") {
			requests[i].size = sizes[row[2]]
			i++
		}
	}
	return requests
}

// TestEstimates compares the estimates for caches of 5 to 80 % of all bytes
// with what an LRU list of that size answers.
func TestEstimates(t *testing.T) {
	n := 400_000
	if testing.Short() {
		n = 100_000
	}
	for name, tc := range map[string]struct {
		requests       []request
		samples        int
		objects, bytes float64 // the largest error
	}{
		"a site, Zipf 0.7":         {site(60_000, n, 0.7, 1), Samples, 0.02, 0.03},
		"a site, Zipf 0.9":         {site(60_000, n, 0.9, 2), Samples, 0.02, 0.03},
		"a site with all in it":    {site(5_000, n, 0.9, 3), Samples, 0.005, 0.01},
		"a production registry":    {trace(t), Samples, 0.02, 0.03},
		"half of its objects":      {trace(t), 630, 0.02, 0.03},
		"a quarter of its objects": {trace(t), 315, 0.02, 0.03},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.requests == nil {
				t.Skip("TEST_TRACE is not set")
			}
			a := New(tc.samples)
			all := make(map[digest.Digest]int64)
			for _, r := range tc.requests {
				a.Saw(r.digest, r.size, false, false)
				all[r.digest] = r.size
			}
			var bytes int64
			for _, size := range all {
				bytes += size
			}
			for _, share := range []float64{0.05, 0.1, 0.2, 0.4, 0.8} {
				limit := int64(share * float64(bytes))
				got, want := a.At(limit), lru(tc.requests, limit)
				t.Logf("%3.0f %% of %d objects: requests %.4f, want %.4f; bytes %.4f, want %.4f", 100*share, len(all), got.Requests, want.Requests, got.Bytes, want.Bytes)
				if math.Abs(got.Requests-want.Requests) > tc.objects || math.Abs(got.Bytes-want.Bytes) > tc.bytes {
					t.Errorf("%.0f %%: %+v, want %+v", 100*share, got, want)
				}
			}
		})
	}
}

// TestMemory has more objects requested than the sample holds.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	a := New(Samples)
	for i := range 200_000 {
		a.Saw(digest.FromString(fmt.Sprint(i)), 1<<20, false, false)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := after.HeapAlloc - before.HeapAlloc; used > 4<<20 {
		t.Errorf("it uses %d bytes, want at most 4 MiB", used)
	}
	runtime.KeepAlive(a)
	if n := len(a.sample); n != Samples {
		t.Errorf("%d samples, want %d", n, Samples)
	}
}

// TestNothingSeen asks an advisor that saw nothing, or no more than sizes that
// are not known.
func TestNothingSeen(t *testing.T) {
	a := New(16)
	a.Saw("sha256:00", -1, false, false)
	if got := a.At(1 << 30); got != (Estimate{}) {
		t.Errorf("%+v, want nothing", got)
	}
	a.Saw(digest.FromString("empty"), 0, false, false)
	if got := a.At(1 << 30); got != (Estimate{}) {
		t.Errorf("%+v, want nothing", got)
	}
}

// TestImages: what a pull uses or fetches before it requests it was held before the
// pull, or not; what is used and not requested again costs nothing.
func TestImages(t *testing.T) {
	a := New(16)
	one, two, other := digest.FromString("1"), digest.FromString("2"), digest.FromString("3")
	pull := func(held bool, all ...digest.Digest) {
		for _, d := range all {
			if a.Used(d); !held {
				a.Fetched(d, 100)
			}
		}
		for _, d := range all {
			a.Saw(d, 100, true, false) // the rest of the image is there once it is requested
		}
	}
	pull(false, one, two)
	a.Saw(other, 1000, false, false)
	a.Fetched(other, 1000)
	pull(true, one, two)
	if got := a.Measured(); got.Requests != 0.4 {
		t.Errorf("measured %v, want 2 of 5", got)
	}
	if small, large := a.At(1000), a.At(1400); small.Requests != 0 || large.Requests < 0.39 {
		t.Errorf("%v and %v, want nothing and 2 of 5", small, large)
	}
	a.Used(digest.FromString("unknown"))
	a.Saw(one, 100, false, false) // evicted
	a.Saw(one, 100, false, true)
	a.Fetched(one, 100)
	a.Saw(one, 100, true, false)
	if got := a.Measured(); got.Requests != 0.5 {
		t.Errorf("measured %v, want 4 of 8", got)
	}
}

// BenchmarkSaw prints the median of a lookup at a site with more objects than the
// sample has, and at one where all are in it.
func BenchmarkSaw(b *testing.B) {
	for _, objects := range []int{400_000, 20_000} {
		b.Run(fmt.Sprint(objects), func(b *testing.B) {
			requests := site(objects, 400_000, 0.8, 4)
			a := New(Samples)
			for _, r := range requests {
				a.Saw(r.digest, r.size, true, false)
			}
			clock, took := make([]time.Duration, 1000), make([]time.Duration, 0, b.N)
			for i := range clock {
				clock[i] = time.Since(time.Now())
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r := requests[i%len(requests)]
				hashOf(r.digest) // its digest is at hand, as that of a request is
				before := time.Now()
				a.Saw(r.digest, r.size, true, false)
				took = append(took, time.Since(before))
			}
			slices.Sort(clock)
			slices.Sort(took)
			b.ReportMetric(float64((took[len(took)/2] - clock[len(clock)/2]).Nanoseconds()), "ns-median")
		})
	}
}
