package pull

import (
	"context"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Manifest returns what a tag or digest names, to be given to the client. With
// describe, its body may be missing where it is not held. While the upstream is
// in trouble the answer may be an earlier digest of the tag, or the error
// ErrIncomplete.
func (r Repository) Manifest(ctx context.Context, f Reference, describe bool) (freshness.Answer, error) {
	if r.held {
		return r.heldManifest(f)
	}
	found, err := r.find(ctx, f, describe)
	if err != nil {
		return found, r.heard(err)
	}
	if found, err = r.inTrouble(ctx, f, found); err != nil {
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

// follow notes what a client that was given a manifest may request next.
func (r Repository) follow(found freshness.Answer, describe bool) {
	held := r.puller.o.Cache
	held.UseImage(found.Digest)
	if found.State == freshness.Fetched {
		r.puller.fetched.Keep(r.FullName(), struct{}{})
	}
	if describe || r.peer {
		return
	}
	r.puller.o.Prefetch.Manifest(r.FullName(), found.Digest, func() (layers, others []cache.Want) {
		parts, _ := held.Parts(found.Digest)
		for _, p := range parts {
			switch {
			case p.Is(content.RoleChild | content.RoleForeign):
			case p.IsLayer():
				layers = append(layers, r.want(p.Digest, p.Size))
			default:
				others = append(others, r.want(p.Digest, p.Size))
			}
		}
		return layers, others
	})
}
