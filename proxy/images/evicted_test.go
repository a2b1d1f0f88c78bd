package images_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/images"
)

// ready returns the images that would survive an outage with what their tags name
// now.
func (s *site) ready(t *testing.T) map[string]bool {
	page, err := s.Images.List(images.Query{})
	must(t, err)
	all := make(map[string]bool)
	for _, row := range page.Images {
		all[row.Ref] = row.Outage == images.Ready && row.Served == ""
	}
	return all
}

// TestBroken plays random sites and compares the images that are said not to survive
// an eviction with those that have not.
func TestBroken(t *testing.T) {
	for n := range uint64(4) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			environ := []string{"HUBCAP_PREFETCH=off"}
			if n%2 == 1 {
				environ = []string{"HUBCAP_PREFETCH=on-pull"}
			}
			s := &site{box: newBox(t, 0, environ...), random: rand.New(rand.NewPCG(n, 1)), seed: n << 32}
			s.play(60)
			broke := 0
			for range 20 {
				gone := make(map[digest.Digest]bool)
				for o := range s.Ledger.Objects() {
					if s.random.IntN(60) == 0 {
						gone[o.Digest] = true
					}
				}
				before, said := s.ready(t), s.Images.Broken(gone)
				for d := range gone {
					s.evict(d)
				}
				var want []string
				for ref, ready := range s.ready(t) {
					if before[ref] && !ready {
						want = append(want, ref)
					}
				}
				broke += len(want)
				said = slices.DeleteFunc(said, func(ref string) bool { return !before[ref] }) // by an earlier digest before
				if slices.Sort(want); !slices.Equal(said, want) {
					t.Errorf("said %v, want %v", said, want)
				}
			}
			if broke == 0 {
				t.Error("nothing broke")
			}
		})
	}
}
