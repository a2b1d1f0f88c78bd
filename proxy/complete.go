package proxy

import (
	"encoding/json"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxNesting is how deep an index may lie in another one and still be looked
// into.
const maxNesting = 3

// completeOrNot tells why a manifest is not to be shown: its registry fails,
// and what it needs is not here. A client that got it would stand half-way; one
// that is refused turns elsewhere at once.
func (h *Handler) completeOrNot(rt route, manifest digest.Digest) error {
	if !rt.upstream.Anonymous.Failing(h.RateLimitWait) || h.complete(rt, manifest, maxNesting) || h.described(rt, manifest) {
		return nil
	}
	return errIncomplete
}

// described tells a manifest that is here to be looked at, with its config and
// no layer of its own, beside an image of the same index that is whole. containerd
// 2 asks for all of an index in this way, and pulls one.
func (h *Handler) described(rt route, d digest.Digest) bool {
	index, known := h.indexes.Get(sizeKey(rt, d))
	m, held := h.Cache.Manifest(d)
	if !known || !held {
		return false
	}
	others := h.layersIn(rt, index)
	parts := blobsOf(m.Body)
	for _, one := range parts {
		has := h.Cache.Has(h.want(rt, one.Digest, one.Size))
		if one.config && !has || !one.config && has && !others[one.Digest] {
			return false
		}
	}
	return len(parts) > 0 && len(others) > 0
}

// layersIn are the blobs of the images of an index that are whole. Platforms
// share layers.
func (h *Handler) layersIn(rt route, index digest.Digest) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	m, _ := h.Cache.Manifest(index)
	children, _ := childrenOf(m.Body)
	for _, child := range children {
		if !h.complete(rt, child, maxNesting-1) {
			continue
		}
		image, _ := h.Cache.Manifest(child)
		for _, one := range blobsOf(image.Body) {
			all[one.Digest] = true
		}
	}
	return all
}

// indexesKept is for how many manifests it is remembered which index names
// them.
const indexesKept = 65_536

// newIndexes is a memory of which index has named a manifest while its registry
// failed.
func newIndexes() *lru.Cache[string, digest.Digest] {
	indexes, err := lru.New[string, digest.Digest](indexesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return indexes
}

// complete tells whether an image could be pulled with its registry out of
// reach. An index could where one of its images can: which one a client wants
// is seen when it asks for it.
func (h *Handler) complete(rt route, d digest.Digest, depth int) bool {
	m, held := h.Cache.Manifest(d)
	if !held {
		return false
	}
	children, isIndex := childrenOf(m.Body)
	if isIndex {
		for _, child := range children {
			h.indexes.Add(sizeKey(rt, child), d)
		}
		for _, child := range children {
			if depth > 0 && h.complete(rt, child, depth-1) {
				return true
			}
		}
		return len(children) == 0
	}
	for _, one := range blobsOf(m.Body) {
		if one.needed() && !h.Cache.Has(h.want(rt, one.Digest, one.Size)) {
			return false
		}
	}
	return true
}

// needed tells a blob that no client of its manifest does without. Those of an
// artifact, ORAS and Trivy among them, ask for its layers alone; what is empty
// nobody has to be asked for.
func (d descriptor) needed() bool {
	switch d.MediaType {
	case ocispec.MediaTypeEmptyJSON:
		return false
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
		return true
	default:
		return !d.config && !d.foreign()
	}
}

// childrenOf are the manifests that an index names.
func childrenOf(manifest []byte) (all []digest.Digest, isIndex bool) {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if json.Unmarshal(manifest, &index) != nil {
		return nil, false
	}
	for _, one := range index.Manifests {
		if one.Digest.Validate() == nil {
			all = append(all, one.Digest)
		}
	}
	return all, index.Manifests != nil
}
