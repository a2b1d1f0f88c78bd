package proxy

import (
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/freshness"
)

// inTrouble returns what a manifest is answered with while its registry, or
// the host that its blobs come from, is in trouble: a client that began an
// image and could not end it would fail, and one that is refused at once turns
// elsewhere.
//
//  1. The manifest itself if its image is held whole, or if some layer of it
//     is held that no earlier image of the tag has: its clients may have the
//     layers that nobody has asked for here.
//  2. Else the latest earlier digest of the tag whose image is held whole.
//  3. Else the manifest itself if any layer of it is held.
//  4. Else errIncomplete.
func (h *Handler) inTrouble(rt route, found freshness.Answer) (freshness.Answer, error) {
	if found.State == freshness.Passed || !h.troubled(rt) || h.complete(rt, found.Digest, content.MaxNesting) {
		return found, nil
	}
	earlier, ok := h.earlierWhole(rt)
	switch {
	case ok && !h.holdsLayer(rt, found.Digest, h.blobsOfImage(earlier.Digest)):
		return earlier, nil
	case h.holdsLayer(rt, found.Digest, nil), h.described(rt, found.Digest):
		return found, nil
	default:
		return found, errIncomplete
	}
}

// troubled reports whether what is not held of a repository is unlikely to be
// had.
func (h *Handler) troubled(rt route) bool {
	return rt.upstream.Anonymous.Failing(h.RateLimitWait) || h.Freshness.Refusing(rt.upstream.Host)
}

// earlierWhole returns the latest earlier digest of the route's tag whose image
// is held whole.
func (h *Handler) earlierWhole(rt route) (freshness.Answer, bool) {
	if rt.tag == "" {
		return freshness.Answer{}, false
	}
	for one := range h.Freshness.Earlier(h.repository(rt), rt.tag) {
		if h.complete(rt, one.Digest, content.MaxNesting) {
			return one, true
		}
	}
	return freshness.Answer{}, false
}

// complete reports whether an image could be pulled with its registry out of
// reach. An index could where one of its images can: which one a client wants
// is seen when it asks for it.
func (h *Handler) complete(rt route, d digest.Digest, depth int) bool {
	m, held := h.Cache.Manifest(d)
	if !held {
		return false
	}
	if m.Content.Kind == content.Index {
		for _, child := range m.Content.Manifests {
			h.indexes.Add(sizeKey(rt, child.Digest), d)
		}
		for _, child := range m.Content.Manifests {
			if depth > 0 && h.complete(rt, child.Digest, depth-1) {
				return true
			}
		}
		return len(m.Content.Manifests) == 0
	}
	whole := true
	m.Content.Needed(func(b content.Blob) bool {
		whole = h.Cache.Has(h.want(rt, b.Digest, b.Size))
		return whole
	})
	return whole
}

// holdsLayer reports whether a layer of the image d that is not among others
// is held; of an index, a layer of one of its images.
func (h *Handler) holdsLayer(rt route, d digest.Digest, others map[digest.Digest]bool) (holds bool) {
	for _, m := range h.imagesOf(d, content.MaxNesting) {
		for _, b := range m.Layers {
			if !others[b.Digest] && h.Cache.Has(h.want(rt, b.Digest, b.Size)) {
				return true
			}
		}
	}
	return false
}

// imagesOf returns the images whose manifests are held: d, or those that the
// index d names.
func (h *Handler) imagesOf(d digest.Digest, depth int) (all []content.Manifest) {
	m, held := h.Cache.Manifest(d)
	if !held {
		return nil
	}
	if m.Content.Kind != content.Index {
		return []content.Manifest{m.Content}
	}
	for _, child := range m.Content.Manifests {
		if depth > 0 {
			all = append(all, h.imagesOf(child.Digest, depth-1)...)
		}
	}
	return all
}

// blobsOfImage returns the blobs that an image names, or the held images of an
// index.
func (h *Handler) blobsOfImage(d digest.Digest) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	for _, m := range h.imagesOf(d, content.MaxNesting) {
		m.Blobs(func(b content.Blob) bool { all[b.Digest] = true; return true })
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

// described reports whether a manifest none of whose own layers is held may
// still be looked at: its config is held, and another image of the same index
// is whole. containerd 2 fetches the manifests and configs of all platforms of
// an index, and pulls one.
func (h *Handler) described(rt route, d digest.Digest) bool {
	index, known := h.indexes.Get(sizeKey(rt, d))
	m, held := h.Cache.Manifest(d)
	if !known || !held || m.Content.Kind != content.Image {
		return false
	}
	if c := m.Content.Config; c != nil && !h.Cache.Has(h.want(rt, c.Digest, c.Size)) {
		return false
	}
	of, _ := h.Cache.Manifest(index)
	for _, child := range of.Content.Manifests {
		if h.complete(rt, child.Digest, content.MaxNesting-1) {
			return true
		}
	}
	return false
}
