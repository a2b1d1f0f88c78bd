package proxy

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
)

// maxNesting is how deep an index may lie in another one and still be looked
// into.
const maxNesting = 3

// completeOrNot tells why a manifest is not to be shown: its registry fails,
// and what it needs is not here. A client that got it would stand half-way; one
// that is refused turns elsewhere at once.
func (h *Handler) completeOrNot(rt route, manifest digest.Digest) error {
	if !rt.upstream.Anonymous.Failing() || h.complete(rt, manifest, maxNesting) {
		return nil
	}
	return errIncomplete
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
			if depth > 0 && h.complete(rt, child, depth-1) {
				return true
			}
		}
		return len(children) == 0
	}
	for _, one := range blobsOf(m.Body) {
		if !one.foreign() && !h.Cache.Has(h.want(rt, one.Digest, one.Size)) {
			return false
		}
	}
	return true
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
