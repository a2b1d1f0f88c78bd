package pins

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/proxy/advice"
	"hubcap/proxy/warm"
)

// The bounds of one image: indexes in indexes, and digests.
const (
	maxDepth = 8
	maxParts = 65_536
)

// memory is what manifests name that belong to what is pinned. It outlives their
// files: when a manifest is lost, what it names stays pinned until the manifest
// is here again.
type memory struct {
	store    Store
	before   *memory // of the look before; nil once this look has ended
	edges    *content.Edges
	children map[digest.Digest][]content.Descriptor // of indexes
}

func newMemory(store Store, before *memory) *memory {
	return &memory{store: store, before: before, edges: content.NewEdges(), children: make(map[digest.Digest][]content.Descriptor)}
}

// parts returns what the manifest d names; ok is false if it is not known.
func (m *memory) parts(d digest.Digest) (parts []content.Part, ok bool) {
	if parts, ok = m.store.Parts(d); !ok && m.before != nil {
		parts, ok = m.before.edges.Parts(d)
	}
	if ok {
		m.edges.Put(d, parts)
	}
	return parts, ok
}

// childrenOf returns the manifests that the index d names.
func (m *memory) childrenOf(d digest.Digest) []content.Descriptor {
	if parts, ok := m.parts(d); !ok || len(parts) == 0 || !parts[0].Is(content.RoleChild) {
		return nil
	}
	if known, ok := m.children[d]; ok {
		return known
	}
	if m.before != nil {
		if known, ok := m.before.children[d]; ok {
			m.children[d] = known
			return known
		}
	}
	one, held := m.store.Manifest(d)
	parsed, err := content.Parse(one.Body)
	if !held || err != nil {
		return nil
	}
	m.children[d] = parsed.Manifests
	return parsed.Manifests
}

// part is a manifest or blob of an image.
type part struct {
	digest digest.Digest
	size   int64 // bytes, 0 if it is not known
}

// tree is what belongs to an image: what is to be here (required), and what is
// kept if it is here: signatures and the other manifests that refer to the image,
// what no client needs, and of other platforms the manifests and configs, which
// containerd fetches with those of its own.
type tree struct {
	memory     *memory
	holds      func(digest.Digest) bool
	tag        func(index.Name) (digest.Digest, bool)
	repository index.Name // of the image; its Kind and Name are not set
	platforms  []string

	seen         map[digest.Digest]bool // in parts, or looked at; whether it is required
	parts        []part
	bytes        int64
	missing      int
	missingBytes int64
	manifests    int   // of missing, those that are manifests
	largest      int64 // bytes of the largest blob that is required
}

func (p *Pins) newTree(m *memory, repository index.Name, platforms []string) *tree {
	return &tree{
		memory: m, holds: p.o.Ledger.Holds, repository: repository, platforms: platforms, seen: make(map[digest.Digest]bool),
		tag: func(name index.Name) (digest.Digest, bool) {
			tag, known, err := p.o.Index.Tag(name)
			return tag.Digest, known && err == nil
		},
	}
}

// add adds a digest, if it is required or held. It reports whether the digest is
// new, and in the tree.
func (t *tree) add(d digest.Digest, size int64, required, manifest bool) bool {
	held := t.holds(d)
	if was, seen := t.seen[d]; seen && (was || !required) || len(t.seen) >= maxParts || !held && !required {
		return false
	}
	if _, seen := t.seen[d]; !seen {
		t.parts = append(t.parts, part{d, max(size, 0)})
		t.bytes += max(size, 0)
	}
	t.seen[d] = required
	if required && !held {
		t.missing++
		t.missingBytes += max(size, 0)
		if manifest {
			t.manifests++
		}
	}
	if required && !manifest {
		t.largest = max(t.largest, size)
	}
	return true
}

// addManifest adds a manifest and what belongs to it.
func (t *tree) addManifest(d digest.Digest, size int64, required bool, depth int) {
	if depth == 0 || !t.add(d, size, required, true) {
		return
	}
	parts, known := t.memory.parts(d)
	if !known {
		return
	}
	if len(parts) > 0 && parts[0].Is(content.RoleChild) {
		t.addChildren(d, required, depth)
	}
	for _, p := range parts {
		if !p.Is(content.RoleChild) {
			t.add(p.Digest, p.Size, required && p.Is(content.RoleNeeded), false)
		}
	}
	for _, referrer := range t.referrers(d) {
		t.addManifest(referrer, -1, false, depth-1)
	}
}

// addChildren adds the manifests of an index.
func (t *tree) addChildren(d digest.Digest, required bool, depth int) {
	children := t.memory.childrenOf(d)
	chosen := warm.Choose(children, t.platforms)
	for _, c := range chosen {
		t.addManifest(c.Digest, c.Size, required, depth-1)
	}
	for _, c := range children {
		switch {
		case slices.ContainsFunc(chosen, func(one content.Descriptor) bool { return one.Digest == c.Digest }):
		case warm.IsAttestation(c):
			t.addManifest(c.Digest, c.Size, false, depth-1)
		case t.add(c.Digest, c.Size, false, true):
			parts, _ := t.memory.parts(c.Digest)
			for _, p := range parts {
				if p.Is(content.RoleConfig) {
					t.add(p.Digest, p.Size, false, false)
				}
			}
		}
	}
}

// referrers returns the manifests that are known to refer to d: a list by the
// registry's API, and tags that stand for d, by the OCI distribution
// specification ("referrers tag schema") or as cosign names them.
func (t *tree) referrers(d digest.Digest) (all []digest.Digest) {
	name := t.repository
	name.Kind, name.Name = index.KindReferrers, d.String()
	if list, known := t.tag(name); known {
		all = append(all, list)
	}
	name.Kind = index.KindTag
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		name.Name = strings.Replace(d.String(), ":", "-", 1) + suffix
		if tagged, known := t.tag(name); known {
			all = append(all, tagged)
		}
	}
	return all
}

// costOf returns what it takes to pin an image that its reference says is d, and
// an error if that cannot be. p.changing is held.
func (p *Pins) costOf(one *pin, d digest.Digest) (Cost, error) {
	m := newMemory(p.o.Store, p.memory)
	t := p.treeOf(m, one, d)
	cost := Cost{
		Ref: one.ref.String(), Digest: d, Platforms: t.platforms, Objects: len(t.parts), Bytes: t.bytes,
		Missing: t.missing, MissingBytes: t.missingBytes,
	}
	others := make(map[digest.Digest]bool)
	for _, other := range p.all() {
		if other.key() == one.key() {
			continue
		}
		_, kept := p.examine(m, other)
		for _, part := range kept.parts {
			if !others[part.digest] {
				others[part.digest] = true
				cost.Pinned += part.size
			}
		}
	}
	for _, part := range t.parts {
		if !others[part.digest] {
			cost.Added += part.size
		}
	}
	budget := p.o.Ledger.Status().Budget
	cost.Limit = limitOf(budget)
	switch {
	case t.largest > p.o.MaxBlob:
		return cost, fmt.Errorf("%s: %w: a layer has %s, and HUBCAP_MAX_BLOB is %s", cost.Ref, ErrTooLarge, advice.Size(t.largest), advice.Size(p.o.MaxBlob))
	case cost.Added > 0 && cost.Pinned+cost.Added > cost.Limit:
		return cost, &FullError{Pinned: cost.Pinned, Needs: cost.Added, Limit: cost.Limit, Cache: budget}
	}
	return cost, nil
}

// limitOf returns how many bytes of a cache may be pinned.
func limitOf(budget int64) int64 { return int64(MaxShare * float64(budget)) }

// treeOf returns the tree of the image d that a pin's reference names.
func (p *Pins) treeOf(m *memory, one *pin, d digest.Digest) *tree {
	repository := index.Name{Registry: one.ref.Registry, Repository: one.ref.Repository}
	if known, err := p.o.Repository(one.ref.Registry, one.ref.Repository); err == nil {
		repository.Restricted = known.Restricted
	}
	platforms := one.Platforms
	if len(platforms) == 0 {
		platforms = p.platformsOf(m, one, d)
	}
	t := p.newTree(m, repository, platforms)
	if d != "" {
		t.addManifest(d, -1, true, maxDepth)
	}
	return t
}

// platformsOf returns the platforms of a pin that names none: those that were
// pulled here, of this image or of one before it.
func (p *Pins) platformsOf(m *memory, one *pin, d digest.Digest) []string {
	all := slices.Clone(one.Pulled)
	children := m.childrenOf(d)
	all = append(all, warm.InUse(children, m.parts, p.o.Ledger.Holds)...)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 && len(children) > 0 {
		all = []string{warm.DefaultPlatform()}
	}
	return all
}
