package eviction

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
)

// TestLargeLeaveEarlier: an object four times as large is evicted at half the age.
func TestLargeLeaveEarlier(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 20*kib, 1, 2, 3)
	fill(t, l, 100*kib, 4)
	fill(t, l, 20*kib, 5)
	// At twice their ages, 4 is as old as 2.
	if got, want := l.Shrink(1000*kib), []digest.Digest{name(1), name(2), name(4), name(3), name(5)}; !slices.Equal(got, want) {
		t.Errorf("evicted\n%v, want\n%v", got, want)
	}
}

// images has the ledger know images: the first of each is its manifest.
func images(l *Ledger, all ...[]int) {
	edges := content.NewEdges()
	for _, image := range all {
		var parts []object
		for _, i := range image[1:] {
			parts = append(parts, object{name(i), -1})
		}
		edges.Put(name(image[0]), needed(parts))
	}
	l.KeepWhole(edges)
}

// TestRestOfAnImage: what only an image needs that is no longer whole is evicted
// next, at once or when room is made the next time. What another image needs,
// what is small, pinned, or was used later stays.
func TestRestOfAnImage(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name1, tc := range map[string]struct {
		prepare func(l *Ledger)
		want    []int
	}{
		"an image":             {func(*Ledger) {}, []int{2, 4, 7}},
		"another is not whole": {func(l *Ledger) { l.Evict(name(6)); l.unlinkNow(name(6)) }, []int{2, 3, 4, 7}},
		"pinned":               {func(l *Ledger) { l.pinOnly(4) }, []int{2, 7}},
		"used later": {func(l *Ledger) {
			now = now.Add(time.Hour)
			l.Touch(name(4))
		}, []int{2, 7}},
	} {
		for _, atOnce := range []bool{true, false} {
			t.Run(fmt.Sprint(name1, ", at once: ", atOnce), func(t *testing.T) {
				l := newTestLedger(1000 * kib)
				l.clock = func() time.Time { return now }
				fill(t, l, 4*kib, 1, 5)
				fill(t, l, 20*kib, 2, 7, 3, 8, 4, 6)
				images(l, []int{1, 2, 3, 4}, []int{5, 3, 6})
				tc.prepare(l)
				var got []digest.Digest
				for range tc.want {
					if atOnce {
						break
					}
					got = append(got, l.Shrink(1)...)
					l.unlinkNow(got[len(got)-1])
				}
				if atOnce {
					l.mu.Lock()
					got = l.evict(0, false, len(tc.want))
					l.mu.Unlock()
				}
				var want []digest.Digest
				for _, i := range tc.want {
					want = append(want, name(i))
				}
				if !slices.Equal(got, want) {
					t.Errorf("evicted\n%v, want\n%v", got, want)
				}
			})
		}
	}
}

// TestManifestTakesItsLayers: an image is no longer whole without its manifest.
func TestManifestTakesItsLayers(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 20*kib, 3)
	fill(t, l, 4*kib, 1)
	fill(t, l, 20*kib, 2)
	images(l, []int{1, 2})
	l.smallLimit = 0
	l.mu.Lock()
	defer l.mu.Unlock()
	if got, want := l.evict(0, false, 2), []digest.Digest{name(1), name(2)}; !slices.Equal(got, want) {
		t.Errorf("evicted\n%v, want\n%v", got, want)
	}
}

// BenchmarkEvict evicts from 1,000,000 blobs of 100,000 images that share
// layers, and prints the median of a decision.
func BenchmarkEvict(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 1))
	edges, l := content.NewEdges(), newTestLedger(1<<50)
	l.smallSize = 1 << 20
	for i := range 100_000 {
		var parts []object
		for j := range 12 {
			id := 12*i + j
			if j < 4 { // shared with the images of a repository
				id = 12*(i-i%10) + j
			}
			parts = append(parts, object{name(id), random.Int64N(64 << 20)})
		}
		manifest := name(-1 - i)
		edges.Put(manifest, needed(parts))
		for _, o := range append(parts, object{manifest, 2000}) {
			if !l.Holds(o.digest) {
				l.Adopt(o.digest, o.size, time.Unix(int64(i), 0), false)
			}
		}
	}
	l.KeepWhole(edges)
	var took []time.Duration
	for b.Loop() {
		before := time.Now()
		l.mu.Lock()
		gone := l.evict(0, false, 1)
		l.mu.Unlock()
		took = append(took, time.Since(before))
		l.unlinkNow(gone[0])
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns-median")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "ns-p99")
}
