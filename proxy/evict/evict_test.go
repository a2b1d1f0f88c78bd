package evict

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/eviction"
	"hubcap/metrics"
)

const mib = 1 << 20

// box is a ledger, and what the manifests in it name.
type box struct {
	*eviction.Ledger
	edges *content.Edges
	names map[digest.Digest][]string
}

func (b *box) Evict(bytes int64) (all []eviction.Object) {
	for some := range b.EvictBytes(bytes) {
		all = append(all, some...)
		for _, o := range some {
			b.edges.Remove(o.Digest) // as the cache does
		}
	}
	return all
}

func (b *box) Names(d digest.Digest) ([]content.Part, bool) { return b.edges.Parts(d) }
func (b *box) NamedBy(d digest.Digest) []digest.Digest      { return b.edges.Naming(d) }
func (b *box) Indexes(d digest.Digest) (all []digest.Digest) {
	for _, above := range b.edges.Naming(d) {
		all = append(append(all, above), b.Indexes(above)...)
	}
	return all
}

// images is Images of a box.
type images struct{ *box }

func (i images) Names() map[digest.Digest][]string { return i.names }

func (i images) Broken(gone map[digest.Digest]bool) (all []string) {
	for d, refs := range i.names {
		if gone[d] {
			all = append(all, refs...)
		}
	}
	slices.Sort(all)
	return all
}

func name(s string) digest.Digest { return digest.FromString(s) }

// newBox holds an index of one image with two layers, the first of which another
// image has too, a layer that nothing names, and a partial fill.
func newBox(t *testing.T) (*box, *Evictor) {
	now := time.Unix(1e9, 0)
	b := &box{edges: content.NewEdges(), names: map[digest.Digest][]string{name("index"): {"b:1", "b:2"}, name("other"): {"a:1"}}}
	b.Ledger = eviction.NewLedger(eviction.LedgerOptions{
		Limit: 1000 * mib, SmallSize: 1 << 10, High: 1, Low: 1, Now: func() time.Time { return now }, Metrics: metrics.New().Space,
	})
	part := func(s string, role content.Role) content.Part { return content.Part{Digest: name(s), Role: role} }
	b.edges.Put(name("index"), []content.Part{part("manifest", content.RoleChild)})
	b.edges.Put(name("manifest"), []content.Part{part("shared", content.RoleNeeded), part("layer", content.RoleNeeded), part("config", content.RoleConfig|content.RoleNeeded)})
	b.edges.Put(name("other"), []content.Part{part("shared", content.RoleNeeded)})
	b.KeepWhole(b.edges)
	for _, one := range []string{"shared", "unnamed", "layer", "config", "manifest", "index", "other", "partial"} {
		if err := b.Reserve(10 * mib); err != nil {
			t.Fatal(err)
		}
		if now = now.Add(time.Hour); one == "partial" {
			b.Park(name(one), 10*mib)
		} else {
			b.Commit(name(one), 10*mib, 10*mib)
		}
	}
	return b, New(Options{Cache: b, Ledger: b, Images: images{b}})
}

// TestEvict compares what a dry run says with what then is evicted, and with what it
// should say.
func TestEvict(t *testing.T) {
	_, e := newBox(t)
	const bytes = 75 * mib
	would, did := e.Evict(bytes, true), e.Evict(bytes, false)
	if !would.DryRun || would.Count != 8 || would.Bytes != 80*mib || would.Broken != 3 {
		t.Errorf("%+v", would)
	}
	if would.DryRun = false; !reflect.DeepEqual(would, did) {
		t.Errorf("%+v\nwent, and the dry run said\n%+v", did, would)
	}
	got := make(map[digest.Digest]string)
	for _, o := range would.Objects {
		got[o.Digest] = fmt.Sprint(o.Kind, " ", o.Partial, " ", o.Image, " ", o.Images)
	}
	want := map[digest.Digest]string{
		name("shared"): "layer false a:1 3", name("unnamed"): "blob false  0", name("layer"): "layer false b:1 2", name("config"): "config false b:1 2",
		name("manifest"): "manifest false b:1 2", name("index"): "index false b:1 2", name("other"): "manifest false a:1 1", name("partial"): "blob true  0",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if r := e.Evict(bytes, true); r.Count != 0 || r.Objects == nil || r.Images == nil {
		t.Errorf("%+v", r)
	}
}

// TestOrderThatHasChanged evicts something else than the dry run said, as it was used
// in the meantime.
func TestOrderThatHasChanged(t *testing.T) {
	b, e := newBox(t)
	plan := e.explain(e.next(20 * mib))
	b.Touch(plan[0].Digest)
	went := inOrderOf(b.Evict(20*mib), plan)
	if len(went) != 2 || went[0] != plan[1] || went[1].Kind != Blob || went[1].Digest == plan[0].Digest {
		t.Errorf("%+v", went)
	}
}
