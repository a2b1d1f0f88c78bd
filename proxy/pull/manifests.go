package pull

import (
	"context"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Manifest returns what a tag or digest names, to be handed to the client; with
// describe, its body may be missing where it is not held. While the registry is
// in trouble the answer may be an earlier digest of the tag, or ErrIncomplete.
func (r Repository) Manifest(ctx context.Context, f Reference, describe bool) (freshness.Answer, error) {
	found, err := r.find(ctx, f, describe)
	if err != nil {
		return found, r.heard(err)
	}
	if found, err = r.inTrouble(f, found); err != nil {
		return found, err
	}
	r.follow(found, describe)
	return found, nil
}

func (r Repository) find(ctx context.Context, f Reference, describe bool) (freshness.Answer, error) {
	tags, question := r.puller.o.Tags, r.questionOf(func(ctx context.Context) *upstream.Client { return r.client(ctx, f) })
	switch {
	case f.Tag != "" && describe:
		return tags.Head(ctx, question, f.Tag)
	case f.Tag != "":
		return tags.Get(ctx, question, f.Tag)
	case describe:
		return tags.HeadDigest(ctx, question, f.Digest)
	default:
		return tags.Digest(ctx, question, f.Digest)
	}
}

// follow learns from a manifest that a client is given what it may ask for
// next.
func (r Repository) follow(found freshness.Answer, describe bool) {
	r.puller.o.Cache.UseImage(found.Digest)
	if found.State == freshness.Fetched {
		if m, err := content.Parse(found.Body); err == nil {
			r.noteSizes(m)
		}
	}
	if describe {
		return
	}
	r.puller.o.Prefetch.Manifest(r.FullName(), found.Digest, func() (layers, others []cache.Want) {
		m, err := content.Parse(found.Body)
		if err != nil {
			return nil, nil
		}
		for _, b := range m.Layers {
			if !b.Foreign() {
				layers = append(layers, r.want(b.Digest, b.Size))
			}
		}
		if m.Config != nil {
			others = append(others, r.want(m.Config.Digest, m.Config.Size))
		}
		return layers, others
	})
}

// noteSizes remembers the sizes that a manifest gives: a hint for how to ask
// for its blobs.
func (r Repository) noteSizes(m content.Manifest) {
	m.Blobs(func(b content.Blob) bool {
		if b.Size >= 0 {
			r.puller.sizes.Add(r.key(b.Digest), b.Size)
		}
		return true
	})
}
