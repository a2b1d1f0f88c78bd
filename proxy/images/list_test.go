package images

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFirst: the first of an order are those that sorting all of them gives, whatever
// the order in which they are added and however many have one value.
func TestFirst(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 7, 100, 1000} {
		for _, values := range []int64{1, 3, 1 << 40} {
			var all []key
			kept := first{n: n}
			for i := range 700 {
				k := key{random.Int64N(values), fmt.Sprint(i)}
				all = append(all, k)
				if !kept.beyond(k.value) {
					kept.add(entry{key: k})
				}
			}
			kept.cut()
			slices.SortFunc(all, key.compare)
			if !slices.EqualFunc(kept.all, all[:min(n, len(all))], func(e entry, k key) bool { return e.key == k }) {
				t.Errorf("the first %d of 700 with %d values are others", n, values)
			}
		}
	}
}
