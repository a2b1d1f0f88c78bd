package content

import (
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/eviction/digests"
)

// Part is a blob or manifest that a manifest names.
type Part struct {
	Digest digest.Digest
	Size   int64 // bytes, as the manifest says; negative when it does not
	Role   Role
	// Platform is that of a child: linux/arm64/v8, windows(10.0.17763)/amd64. It is
	// empty where the index gives none, or gives unknown/unknown, as it does for
	// what is no image.
	Platform string
}

// Role is what a part is to its manifest: a set of flags.
type Role uint16

// The roles. A part that is neither a config nor a child is a layer.
const (
	RoleConfig  Role = 1 << iota
	RoleChild        // a manifest that an index names
	RoleForeign      // its registry need not have it
	RoleNeeded       // every client of the manifest fetches it

	roleBits = 4
)

// Is reports whether the part has the role.
func (p Part) Is(role Role) bool { return p.Role&role != 0 }

// IsLayer reports whether the part is a layer.
func (p Part) IsLayer() bool { return !p.Is(RoleConfig | RoleChild) }

// Parts returns what a manifest names: the children of an index; the layers of
// an image, and then its config.
func (m Manifest) Parts() []Part {
	parts := make([]Part, 0, len(m.Manifests)+len(m.Layers)+1)
	for _, c := range m.Manifests {
		parts = append(parts, Part{c.Digest, c.Size, RoleChild, platformOf(c.Platform)})
	}
	for _, b := range m.Layers {
		parts = append(parts, Part{Digest: b.Digest, Size: b.Size, Role: b.role(0)})
	}
	if m.Config != nil {
		parts = append(parts, Part{Digest: m.Config.Digest, Size: m.Config.Size, Role: m.Config.role(RoleConfig)})
	}
	return parts
}

// platformOf returns a platform in the form of Part.Platform.
func platformOf(p *ocispec.Platform) string {
	if p == nil || p.OS == "" || p.OS == "unknown" {
		return ""
	}
	text := p.OS
	if p.OSVersion != "" {
		text += "(" + p.OSVersion + ")"
	}
	text += "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

// role adds to a role what the descriptor says. Needed are all layers but
// foreign ones, and the config of an image. Clients of other artifacts, ORAS and
// Trivy among them, fetch the layers alone. The empty blob is fetched by none.
func (d Descriptor) role(role Role) Role {
	switch {
	case d.Foreign():
		return role | RoleForeign
	case d.MediaType == ocispec.MediaTypeEmptyJSON, role&RoleConfig != 0 && !isImageConfig(d.MediaType):
		return role
	default:
		return role | RoleNeeded
	}
}

// Edges keeps in memory what each manifest names, and which manifests name
// something. Its methods may be called at any time from any goroutine.
//
// An image of 12 layers that it shares with no other takes less than 1 KiB, one
// whose layers are all shared about half of that (TestEdgesMemory).
type Edges struct {
	mu       sync.RWMutex
	nodes    *digests.Table[node]
	records  [][]edge // what each manifest names, by node.record; 0 is none
	unused   []uint32 // free places in records
	several  [][]digests.Ref
	unusedOf []uint32 // free places in several
	// platforms are those of the children, by the number that an edge has; their
	// numbers are in numbers. The first is none.
	platforms []string
	numbers   map[string]uint16
}

// maxPlatforms is how many platforms are told apart: a number has 12 bits. Those
// of all images there are number some hundreds, with the versions of Windows; an
// index that makes up others has children without a platform.
const maxPlatforms = 1 << (16 - roleBits)

// node is a digest that is a manifest or that a manifest names.
type node struct {
	record uint32 // of a manifest, in Edges.records; else 0
	// naming is the manifest that names it, 0 for none; where there are several
	// it is their place in Edges.several with the flag severalFlag.
	naming uint32
}

const severalFlag = 1 << 31

// edge is a Part in 12 bytes. A size above maxSize counts as unknown.
type edge struct {
	to      digests.Ref
	sizeLow uint32
	sizeUp  uint16
	is      uint16 // the role, and above it the number of the platform
}

const maxSize = 1<<48 - 2

func newEdge(to digests.Ref, p Part, platform uint16) edge {
	size := p.Size
	if size < 0 || size > maxSize {
		size = maxSize + 1
	}
	return edge{to, uint32(size & (1<<32 - 1)), uint16(size >> 32), uint16(p.Role) | platform<<roleBits}
}

func (e edge) size() int64 {
	if size := int64(e.sizeUp)<<32 | int64(e.sizeLow); size <= maxSize {
		return size
	}
	return -1
}

func (e edge) role() Role { return Role(e.is & (1<<roleBits - 1)) }

// NewEdges returns a value that knows no manifest.
func NewEdges() *Edges {
	return &Edges{
		nodes: digests.New[node](), records: [][]edge{nil}, several: [][]digests.Ref{nil},
		platforms: []string{""}, numbers: map[string]uint16{"": 0},
	}
}

// Put takes what the manifest d names, unless it is known.
func (e *Edges) Put(d digest.Digest, parts []Part) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.node(d)
	if e.nodes.At(from).record != 0 {
		return
	}
	edges := make([]edge, len(parts))
	for i, p := range parts {
		to := e.node(p.Digest)
		edges[i] = newEdge(to, p, e.numberOf(p.Platform))
		e.link(from, to)
	}
	e.nodes.At(from).record = place(&e.records, &e.unused, edges)
}

// Remove forgets what the manifest d names.
func (e *Edges) Remove(d digest.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from, ok := e.nodes.Find(d)
	if !ok || e.nodes.At(from).record == 0 {
		return
	}
	n := e.nodes.At(from)
	edges := e.records[n.record]
	e.records[n.record], e.unused, n.record = nil, append(e.unused, n.record), 0
	removed := make(map[digests.Ref]bool)
	for _, part := range edges {
		if !removed[part.to] {
			removed[part.to] = true
			e.unlink(from, part.to)
			e.drop(part.to)
		}
	}
	if !removed[from] {
		e.drop(from)
	}
}

// Parts returns what the manifest d names; known is false for a digest that Put
// was not called with.
func (e *Edges) Parts(d digest.Digest) (parts []Part, known bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	edges := e.edgesOf(d)
	if edges == nil {
		return nil, false
	}
	parts = make([]Part, len(edges))
	for i, one := range edges {
		parts[i] = Part{e.nodes.Digest(one.to), one.size(), one.role(), e.platforms[one.is>>roleBits]}
	}
	return parts, true
}

// Knows reports whether Put was called with d, and Remove not since.
func (e *Edges) Knows(d digest.Digest) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.edgesOf(d) != nil
}

// Naming returns the manifests that name d.
func (e *Edges) Naming(d digest.Digest) (all []digest.Digest) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if r, ok := e.nodes.Find(d); ok {
		for _, from := range e.namedBy(e.nodes.At(r)) {
			all = append(all, e.nodes.Digest(from))
		}
	}
	return all
}

// Needed returns what every client of the image d fetches besides its manifest;
// nothing for what is not known to be the manifest of an image.
func (e *Edges) Needed(d digest.Digest) (all []digest.Digest) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, one := range e.edgesOf(d) {
		if one.role()&RoleNeeded != 0 {
			all = append(all, e.nodes.Digest(one.to))
		}
	}
	return all
}

// Named reports whether a manifest names d, and returns the size in bytes that
// the first one gives which gives any; negative for none.
func (e *Edges) Named(d digest.Digest) (size int64, named bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	r, ok := e.nodes.Find(d)
	if !ok {
		return -1, false
	}
	all := e.namedBy(e.nodes.At(r))
	for _, from := range all {
		for _, one := range e.records[e.nodes.At(from).record] {
			if one.to == r && one.size() >= 0 {
				return one.size(), true
			}
		}
	}
	return -1, len(all) > 0
}

// Len returns how many manifests are known.
func (e *Edges) Len() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.records) - 1 - len(e.unused)
}

// e.mu is held in what follows.

// edgesOf returns what the manifest d names, which may be nothing; nil if d is
// not known.
func (e *Edges) edgesOf(d digest.Digest) []edge {
	r, ok := e.nodes.Find(d)
	if !ok {
		return nil
	}
	return e.records[e.nodes.At(r).record]
}

// numberOf returns the number of a platform, 0 where there are too many.
func (e *Edges) numberOf(platform string) uint16 {
	number, known := e.numbers[platform]
	if !known && len(e.platforms) < maxPlatforms {
		platform = strings.Clone(platform)
		number = uint16(len(e.platforms)) //nolint:gosec // below maxPlatforms
		e.platforms, e.numbers[platform] = append(e.platforms, platform), number
	}
	return number
}

func (e *Edges) node(d digest.Digest) digests.Ref {
	if r, ok := e.nodes.Find(d); ok {
		return r
	}
	return e.nodes.Add(d)
}

// drop forgets a node that is no manifest and that none names.
func (e *Edges) drop(r digests.Ref) {
	if *e.nodes.At(r) == (node{}) {
		e.nodes.Remove(r)
	}
}

// namedBy returns the manifests that name n. The result is not changed.
func (e *Edges) namedBy(n *node) []digests.Ref {
	switch {
	case n.naming == 0:
		return nil
	case n.naming&severalFlag == 0:
		return []digests.Ref{digests.Ref(n.naming)}
	default:
		return e.several[n.naming&^severalFlag]
	}
}

// link notes that from names to, once however often it does.
func (e *Edges) link(from, to digests.Ref) {
	n := e.nodes.At(to)
	before := e.namedBy(n)
	switch {
	case len(before) == 0:
		n.naming = uint32(from)
	case before[len(before)-1] == from: // it names it twice
	case n.naming&severalFlag == 0:
		n.naming = severalFlag | place(&e.several, &e.unusedOf, []digests.Ref{before[0], from})
	default:
		e.several[n.naming&^severalFlag] = append(before, from)
	}
}

// unlink takes link back.
func (e *Edges) unlink(from, to digests.Ref) {
	n := e.nodes.At(to)
	if n.naming&severalFlag == 0 {
		n.naming = 0
		return
	}
	at := n.naming &^ severalFlag
	all := e.several[at]
	if i := slices.Index(all, from); i >= 0 {
		all = slices.Delete(all, i, i+1)
	}
	if len(all) > 1 {
		e.several[at] = all
		return
	}
	n.naming = uint32(all[0])
	e.several[at], e.unusedOf = nil, append(e.unusedOf, at)
}

// place puts a value into a free place of all and returns where.
func place[T any](all *[]T, unused *[]uint32, value T) uint32 {
	if last := len(*unused) - 1; last >= 0 {
		at := (*unused)[last]
		*unused = (*unused)[:last]
		(*all)[at] = value
		return at
	}
	*all = append(*all, value)
	return uint32(len(*all) - 1) //nolint:gosec // memory ends long before
}
