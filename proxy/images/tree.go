package images

import (
	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/proxy/reference"
)

// Kind is what a Node is.
type Kind string

// The kinds.
const (
	KindIndex    Kind = "index"
	KindManifest Kind = "manifest"
	KindConfig   Kind = "config"
	KindLayer    Kind = "layer"
	KindReferrer Kind = "referrer" // a manifest that refers to the image: a signature, an SBOM
)

// Node is a manifest or blob of an image.
type Node struct {
	Kind     Kind          `json:"kind"`
	Digest   digest.Digest `json:"digest"`
	Platform string        `json:"platform,omitempty"`
	Size     int64         `json:"size"` // bytes; negative where that is not known
	Held     bool          `json:"held"`
	// Shared is how many other manifests that are held name it too.
	Shared int    `json:"shared_with"`
	Nodes  []Node `json:"nodes,omitempty"`
}

// maxDepth is how deep indexes of indexes are shown.
const maxDepth = 4

// Tree returns what an image consists of; ok is false where it is not known what
// its tag names.
func (m *Images) Tree(r reference.Reference) (root Node, ok bool) {
	d := r.Digest
	if d == "" {
		one := &image{repository: &repository{repositoryKey: repositoryKey{r.Registry, r.Repository}}, tag: r.Tag}
		if served, _, _ := m.inOutage(one); served.Named != "" { // the error is about serving it
			d = served.Named
		} else if one = m.known(r); one != nil {
			d = one.current()
		}
		if d == "" {
			return Node{}, false
		}
	}
	size := int64(-1)
	if stored, held := m.o.Ledger.Size(d); held {
		size = stored
	}
	root = m.node(content.Part{Digest: d, Size: size, Role: content.RoleChild}, 0)
	for _, subject := range append([]digest.Digest{d}, childrenOf(root)...) {
		root.Nodes = append(root.Nodes, m.referrers(r, subject)...)
	}
	return root, true
}

func childrenOf(n Node) (all []digest.Digest) {
	for _, child := range n.Nodes {
		if child.Kind == KindIndex || child.Kind == KindManifest {
			all = append(all, child.Digest)
		}
	}
	return all
}

// node returns a part with what it names.
func (m *Images) node(p content.Part, depth int) Node {
	_, held := m.o.Ledger.Size(p.Digest)
	n := Node{Kind: KindLayer, Digest: p.Digest, Platform: p.Platform, Size: p.Size, Held: held, Shared: max(len(m.o.Cache.NamedBy(p.Digest))-1, 0)}
	switch {
	case p.Is(content.RoleConfig):
		n.Kind = KindConfig
	case p.Is(content.RoleChild):
		n.Kind = KindManifest
		parts, _ := m.o.Cache.Parts(p.Digest)
		if isIndex(parts) {
			n.Kind = KindIndex
		}
		for _, part := range parts {
			if depth < maxDepth {
				n.Nodes = append(n.Nodes, m.node(part, depth+1))
			}
		}
	}
	return n
}

// referrers returns the manifests that are known to refer to a manifest.
func (m *Images) referrers(r reference.Reference, subject digest.Digest) (all []Node) {
	list, known, err := m.o.Index.Tag(index.Name{Registry: r.Registry, Repository: r.Repository, Kind: index.KindReferrers, Name: subject.String()})
	if err != nil || !known {
		return nil
	}
	parts, _ := m.o.Cache.Parts(list.Digest)
	for _, part := range parts {
		n := m.node(part, 1)
		n.Kind = KindReferrer
		all = append(all, n)
	}
	return all
}
