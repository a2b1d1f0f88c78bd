package content

import (
	"fmt"
	"hubcap/eviction/digests"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

func named(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func parts(ids ...int) (all []Part) {
	for _, i := range ids {
		all = append(all, Part{Digest: named(i), Size: int64(i), Role: RoleNeeded})
	}
	return all
}

func TestEdges(t *testing.T) {
	e := NewEdges()
	e.Put(named(100), parts(1, 2, 2, 3))
	e.Put(named(101), []Part{{named(2), -1, RoleConfig, ""}, {named(4), maxSize + 1, RoleForeign, ""}, {named(5), maxSize, 0, ""}, {named(6), 0, 0, ""}})
	index := []Part{{named(100), 7, RoleChild, "linux/amd64"}, {named(102), 9, RoleChild, "linux/arm/v7"}, {named(103), 9, RoleChild, "linux/amd64"}, {named(104), 9, RoleChild, ""}}
	e.Put(named(102), index)
	e.Put(named(100), parts(9)) // is known

	if got, known := e.Parts(named(100)); !known || !slices.Equal(got, parts(1, 2, 2, 3)) {
		t.Errorf("%v, %v", got, known)
	}
	if got, known := e.Parts(named(102)); !known || !slices.Equal(got, index) {
		t.Errorf("%v, %v", got, known)
	}
	if got, known := e.Parts(named(1)); known {
		t.Errorf("a layer names %v", got)
	}
	for i, want := range map[int]struct {
		size   int64
		named  bool
		naming []digest.Digest
	}{
		1: {1, true, []digest.Digest{named(100)}}, 2: {2, true, []digest.Digest{named(100), named(101)}},
		4: {-1, true, []digest.Digest{named(101)}}, 5: {maxSize, true, []digest.Digest{named(101)}}, 6: {0, true, []digest.Digest{named(101)}},
		9: {-1, false, nil}, 101: {-1, false, nil}, 102: {9, true, []digest.Digest{named(102)}},
	} {
		size, ok := e.Named(named(i))
		if naming := e.Naming(named(i)); size != want.size || ok != want.named || !slices.Equal(naming, want.naming) {
			t.Errorf("%d: size %d, %v, named by %v", i, size, ok, naming)
		}
	}
	for _, i := range []int{102, 101, 100, 100, 7} {
		e.Remove(named(i))
	}
	if nodes := nodesOf(e); nodes != 0 || e.Len() != 0 {
		t.Errorf("%d nodes, %d manifests are left", nodes, e.Len())
	}
}

// TestEdgesModel puts and removes manifests at random, and compares what is
// known with a plain map.
func TestEdgesModel(t *testing.T) {
	e, model, random := NewEdges(), map[digest.Digest][]Part{}, rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		d := named(random.IntN(40))
		if random.IntN(2) == 0 {
			delete(model, d)
			e.Remove(d)
			continue
		}
		var some []int
		for range random.IntN(6) {
			some = append(some, random.IntN(60))
		}
		e.Put(d, parts(some...))
		if _, known := model[d]; !known {
			model[d] = parts(some...)
		}
	}
	nodes := map[digest.Digest]bool{}
	for i := range 60 {
		d := named(i)
		got, known := e.Parts(d)
		if want, there := model[d]; known != there || !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", i, got, want)
		}
		var naming []digest.Digest
		for from, names := range model {
			nodes[from] = true
			if slices.ContainsFunc(names, func(p Part) bool { return p.Digest == d }) {
				naming = append(naming, from)
				nodes[d] = true
			}
		}
		gotNaming := e.Naming(d)
		slices.Sort(naming)
		slices.Sort(gotNaming)
		if !slices.Equal(gotNaming, naming) {
			t.Errorf("%d: named by %v, want %v", i, gotNaming, naming)
		}
	}
	if nodesOf(e) != len(nodes) || e.Len() != len(model) {
		t.Errorf("%d nodes of %d, %d manifests of %d", nodesOf(e), len(nodes), e.Len(), len(model))
	}
}

// TestEdgesMemory holds Edges to what its comment says.
func TestEdgesMemory(t *testing.T) {
	const images = 5_000
	image := func(i int, layer func(n int) int) []Part {
		all := parts(1_000_000 + i) // the config
		for n := range 12 {
			all = append(all, Part{named(layer(n)), int64(n), RoleNeeded, ""})
		}
		return all
	}
	for name, tt := range map[string]struct {
		layer func(i, n int) int
		bytes uint64
	}{
		"none shared": {func(i, n int) int { return 2_000_000 + 12*i + n }, 1024},
		"all shared":  {func(_, n int) int { return n }, 512},
	} {
		bytes := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := bytes()
		e := NewEdges()
		for i := range images {
			e.Put(named(3_000_000+i), image(i, func(n int) int { return tt.layer(i, n) }))
		}
		if got := (bytes() - before) / images; got > tt.bytes {
			t.Errorf("%s: %d bytes an image, at most %d", name, got, tt.bytes)
		} else {
			t.Logf("%s: %d bytes an image", name, got)
		}
		runtime.KeepAlive(e)
	}
}

// nodesOf counts the nodes of e.
func nodesOf(e *Edges) (n int) {
	e.nodes.Some(0, 1<<30, func(digests.Ref) { n++ })
	return n
}
