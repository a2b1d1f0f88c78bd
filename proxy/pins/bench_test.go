package pins

import (
	"fmt"
	"testing"

	"hubcap/cache/content"

	"github.com/opencontainers/go-digest"
)

// edgeStore is a store that knows its manifests from memory, as a cache does.
type edgeStore struct {
	*rig
	edges *content.Edges
}

func (s edgeStore) Parts(d digest.Digest) ([]content.Part, bool) { return s.edges.Parts(d) }

// BenchmarkLook looks at 1,000 pinned images of 100 parts each.
func BenchmarkLook(b *testing.B) {
	r := newRig(b)
	s := edgeStore{r, content.NewEdges()}
	r.o.Store = s
	for n := range 1000 {
		i := r.pushImage(fmt.Sprint(n), make([]int64, 100)...)
		for _, d := range i.all() {
			r.ledger.Adopt(d, r.sizes[d], start, false)
		}
		parts, _ := r.Parts(i.digest)
		s.edges.Put(i.digest, parts)
		one := &pin{}
		one.ref.Registry, one.ref.Repository, one.ref.Digest = "docker.io", "library/app", i.digest
		r.pins[one.key()] = one
	}
	b.ReportAllocs()
	for b.Loop() {
		r.look()
	}
	if o := r.Overview(); o.Pins != 1000 || o.MissingBytes != 0 {
		b.Errorf("%+v", o)
	}
}
