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
					got = digestsOf(l.evict(l.evictionOrder(false), l.keeps(0), len(tc.want)))
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
	if got, want := digestsOf(l.evict(l.evictionOrder(false), l.keeps(0), 2)), []digest.Digest{name(1), name(2)}; !slices.Equal(got, want) {
		t.Errorf("evicted\n%v, want\n%v", got, want)
	}
}

// BenchmarkEvict evicts from about 1,000 and 1,000,000 blobs of images that share
// layers, and prints the median of a decision.
func BenchmarkEvict(b *testing.B) {
	for _, images := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("images=%d", images), func(b *testing.B) { benchmarkEvict(b, images) })
	}
}

func benchmarkEvict(b *testing.B, images int) {
	l := newSharingLedger(images)
	var took []time.Duration
	for b.Loop() {
		before := time.Now()
		l.mu.Lock()
		gone := l.evict(l.evictionOrder(false), l.keeps(0), 1)
		l.mu.Unlock()
		if len(gone) == 0 { // all are
			l = newSharingLedger(images)
			continue
		}
		took = append(took, time.Since(before))
		l.unlinkNow(gone[0].Digest)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns-median")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "ns-p99")
}

// newSharingLedger holds n images of 12 layers, of which ten images share four.
func newSharingLedger(n int) *Ledger {
	random := rand.New(rand.NewPCG(1, 1))
	edges, l := content.NewEdges(), newTestLedger(1<<50)
	l.smallSize = 1 << 20
	for i := range n {
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
	return l
}

// newImagesLedger holds n images of 6 layers of different sizes, which share some
// with each other.
func newImagesLedger(n int) *Ledger {
	random := rand.New(rand.NewPCG(1, 1))
	edges, l := content.NewEdges(), newTestLedger(1<<50)
	for i := range n {
		var parts []object
		for j := range 6 {
			id := 6*i + j
			if j < 2 {
				id = 6*(i-i%4) + j
			}
			parts = append(parts, object{name(id), 20*kib + random.Int64N(4000*kib)})
		}
		edges.Put(name(-1-i), needed(parts))
		for _, o := range append(parts, object{name(-1 - i), 2 * kib}) {
			if !l.Holds(o.digest) {
				l.Adopt(o.digest, o.size, time.Unix(int64(i), 0), false)
			}
		}
	}
	l.KeepWhole(edges)
	return l
}

// TestNextAndEvictBytesAgree compares what Next says with what is then evicted,
// over several batches.
func TestNextAndEvictBytesAgree(t *testing.T) {
	l := newImagesLedger(1000)
	const bytes = 4000 << 20
	var want []Object
	sum := int64(0)
	for o := range l.Next() {
		if sum >= bytes {
			break
		}
		sum += o.OnDisk()
		want = append(want, o)
	}
	if len(want) < 3*batch {
		t.Fatalf("%d objects are too few", len(want))
	}
	var got []Object
	for some := range l.EvictBytes(bytes) {
		got = append(got, some...)
		for _, o := range some {
			l.unlinkNow(o.Digest)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("evicted %d objects, Next said %d", len(got), len(want))
	}
}

// TestOrderWhileTheLedgerChanges uses, pins and evicts objects between two
// batches: nothing is evicted that was used or pinned meanwhile, nothing twice.
func TestOrderWhileTheLedgerChanges(t *testing.T) {
	for _, preview := range []bool{true, false} {
		l := newImagesLedger(1000)
		random := rand.New(rand.NewPCG(2, 2))
		seen, kept := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
		visit := func(o Object) {
			switch {
			case seen[o.Digest]:
				t.Errorf("preview %v: %v is evicted twice", preview, o)
			case kept[o.Digest]:
				t.Errorf("preview %v: %v was used or pinned", preview, o)
			}
			seen[o.Digest] = true
		}
		change := func() {
			var pinned []digest.Digest
			for range 200 {
				d := name(random.IntN(6000))
				if seen[d] || !l.Holds(d) {
					continue
				}
				switch kept[d] = true; random.IntN(3) {
				case 0:
					l.Touch(d)
				case 1:
					l.Evict(d)
				default:
					pinned = append(pinned, d)
				}
			}
			for o := range l.Objects() {
				if o.Pinned {
					pinned = append(pinned, o.Digest)
				}
			}
			l.SetPinned(slices.Values(pinned))
		}
		if preview {
			n := 0
			for o := range l.Next() {
				if visit(o); len(seen) > 2500 {
					break
				}
				if n++; n%batch == 0 {
					change()
				}
			}
			continue
		}
		for some := range l.EvictBytes(4000 << 20) {
			for _, o := range some {
				visit(o)
			}
			change()
		}
	}
}
