package pull

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/freshness"
)

// ErrIncomplete says that the registry is in trouble, and that too little of an
// image is held.
var ErrIncomplete = errors.New("the registry fails, and not all of the image is held")

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
//  4. Else ErrIncomplete.
func (r Repository) inTrouble(f Reference, found freshness.Answer) (freshness.Answer, error) {
	if found.State == freshness.HeadOnly || !r.troubled() || r.complete(found.Digest, content.MaxNesting) {
		return found, nil
	}
	earlier, ok := r.earlierWhole(f.Tag)
	switch {
	case ok && !r.holdsLayer(found.Digest, r.blobsOfImage(earlier.Digest)):
		return earlier, nil
	case r.holdsLayer(found.Digest, nil), r.described(found.Digest):
		return found, nil
	default:
		return found, ErrIncomplete
	}
}

// troubled reports whether what is not held of a repository is unlikely to be
// had.
func (r Repository) troubled() bool {
	t := r.Upstream.Anonymous.Trouble(r.puller.o.Patience)
	return t.Registry || t.Blobs || r.puller.o.Tags.Refusing(r.Upstream.Host)
}

// earlierWhole returns the latest earlier digest of the tag whose image
// is held whole.
func (r Repository) earlierWhole(tag string) (freshness.Answer, bool) {
	if tag == "" {
		return freshness.Answer{}, false
	}
	for one := range r.puller.o.Tags.Earlier(r.question(), tag) {
		if r.complete(one.Digest, content.MaxNesting) {
			return one, true
		}
	}
	return freshness.Answer{}, false
}

// complete reports whether an image could be pulled with its registry out of
// reach. An index could where one of its images can: which one a client wants
// is seen when it asks for it.
func (r Repository) complete(d digest.Digest, depth int) bool {
	m, held := r.puller.o.Cache.Manifest(d)
	if !held {
		return false
	}
	if m.Content.Kind == content.Index {
		for _, child := range m.Content.Manifests {
			r.puller.indexes.Add(r.key(child.Digest), d)
		}
		for _, child := range m.Content.Manifests {
			if depth > 0 && r.complete(child.Digest, depth-1) {
				return true
			}
		}
		return len(m.Content.Manifests) == 0
	}
	whole := true
	m.Content.Needed(func(b content.Blob) bool {
		whole = r.has(b.Digest)
		return whole
	})
	return whole
}

// holdsLayer reports whether a layer of the image d that is not among others
// is held; of an index, a layer of one of its images.
func (r Repository) holdsLayer(d digest.Digest, others map[digest.Digest]bool) (holds bool) {
	for _, m := range r.imagesOf(d, content.MaxNesting) {
		for _, b := range m.Layers {
			if !others[b.Digest] && r.has(b.Digest) {
				return true
			}
		}
	}
	return false
}

// imagesOf returns the images whose manifests are held: d, or those that the
// index d names.
func (r Repository) imagesOf(d digest.Digest, depth int) (all []content.Manifest) {
	m, held := r.puller.o.Cache.Manifest(d)
	if !held {
		return nil
	}
	if m.Content.Kind != content.Index {
		return []content.Manifest{m.Content}
	}
	for _, child := range m.Content.Manifests {
		if depth > 0 {
			all = append(all, r.imagesOf(child.Digest, depth-1)...)
		}
	}
	return all
}

// blobsOfImage returns the blobs that an image names, or the held images of an
// index.
func (r Repository) blobsOfImage(d digest.Digest) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	for _, m := range r.imagesOf(d, content.MaxNesting) {
		m.Blobs(func(b content.Blob) bool { all[b.Digest] = true; return true })
	}
	return all
}

// described reports whether a manifest none of whose own layers is held may
// still be looked at: its config is held, and another image of the same index
// is whole. containerd 2 fetches the manifests and configs of all platforms of
// an index, and pulls one.
func (r Repository) described(d digest.Digest) bool {
	index, known := r.puller.indexes.Get(r.key(d))
	m, held := r.puller.o.Cache.Manifest(d)
	if !known || !held || m.Content.Kind != content.Image {
		return false
	}
	if c := m.Content.Config; c != nil && !r.has(c.Digest) {
		return false
	}
	of, _ := r.puller.o.Cache.Manifest(index)
	for _, child := range of.Content.Manifests {
		if r.complete(child.Digest, content.MaxNesting-1) {
			return true
		}
	}
	return false
}
