package pull

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/freshness"
)

// ErrIncomplete says that the upstream is in trouble, and that too little of an
// image is held.
var ErrIncomplete = errors.New("the upstream fails, and not all of the image is held")

// inTrouble returns the answer to a request for a manifest while its upstream, or
// the host that its blobs come from, is in trouble. A client that begins an image
// and cannot complete it fails; one that is refused at once turns to another
// registry.
//
//  1. The manifest itself if its image is held whole, or if a layer of it is
//     held that the earlier image of 2 does not have: clients may already have
//     the layers that were never requested here.
//  2. Else the latest earlier digest of the tag whose image is held whole, unless
//     the tag is frozen.
//  3. Else the manifest itself if any layer of it is held.
//  4. Else ErrIncomplete.
//
// In a site, an image counts as whole if the boxes hold it together.
func (r Repository) inTrouble(ctx context.Context, f Reference, found freshness.Answer) (freshness.Answer, error) {
	if found.State == freshness.HeadOnly || !r.troubled() {
		return found, nil
	}
	whole := func(d digest.Digest) bool { return r.Whole(d).Whole || r.wholeAtSite(ctx, d) }
	d, ok := r.servedInTrouble(found.Digest, whole, func() iter.Seq[digest.Digest] { return r.puller.o.Tags.EarlierDigests(r.question(), f.Tag) })
	switch {
	case !ok:
		return found, ErrIncomplete
	case d == found.Digest:
		return found, nil
	}
	for earlier := range r.puller.o.Tags.Earlier(r.question(), f.Tag) {
		if earlier.Digest == d {
			return earlier, nil
		}
	}
	return found, ErrIncomplete // it was evicted just now
}

// servedInTrouble returns the digest that inTrouble answers with instead of d; ok
// is false where that is none. whole reports whether an image can be pulled in whole,
// and earlier returns what the tag named before.
func (r Repository) servedInTrouble(d digest.Digest, whole func(digest.Digest) bool, earlier func() iter.Seq[digest.Digest]) (served digest.Digest, ok bool) {
	if whole(d) {
		return d, true
	}
	for before := range earlier() {
		if r.has(before) && whole(before) {
			if !r.holdsLayer(d, r.blobsOfImage(before)) {
				return before, true
			}
			break
		}
	}
	return d, r.holdsLayer(d, nil) || r.described(d)
}

// troubled reports whether content that is not held is unlikely to be available
// from the upstream.
func (r Repository) troubled() bool {
	t := r.Upstream.Anonymous.Trouble(r.puller.o.Patience)
	return t.Registry || t.Blobs || r.puller.o.Tags.Refusing(r.Upstream.Host)
}

// holdsLayer reports whether a layer of the image d is held that is not among
// others; of an index, a layer of one of its images.
func (r Repository) holdsLayer(d digest.Digest, others map[digest.Digest]bool) bool {
	images, _ := r.puller.o.Cache.Images(d)
	for _, image := range images {
		for _, p := range image.Parts {
			if p.IsLayer() && !others[p.Digest] && r.has(p.Digest) {
				return true
			}
		}
	}
	return false
}

// blobsOfImage returns the blobs that an image names, or the held images of an
// index.
func (r Repository) blobsOfImage(d digest.Digest) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	images, _ := r.puller.o.Cache.Images(d)
	for _, image := range images {
		for _, p := range image.Parts {
			all[p.Digest] = true
		}
	}
	return all
}

// described reports whether an image none of whose own layers is held may still
// be served: its config is held, and another image of the same index is whole.
// containerd 2 fetches the manifests and configs of all platforms of an index,
// and the layers of one.
func (r Repository) described(d digest.Digest) bool {
	parts, held := r.puller.o.Cache.Parts(d)
	if !held || len(parts) == 0 || parts[0].Is(content.RoleChild) {
		return false
	}
	for _, p := range parts {
		if p.Is(content.RoleConfig) && !r.has(p.Digest) {
			return false
		}
	}
	return slices.ContainsFunc(r.puller.o.Cache.Indexes(d), func(index digest.Digest) bool { return r.Whole(index).Whole })
}
