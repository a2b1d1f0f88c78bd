package freshness

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// HeldTag returns the manifest that a tag was last known to name; ok is false where that
// is not held, or must not be served without its upstream. Nothing is asked.
func (r *Resolver) HeldTag(repo Repository, tag string) (a Answer, ok bool) {
	known, ok := r.tags.get(repo.tag(tag))
	if !ok {
		return Answer{}, false
	}
	return r.heldAs(repo, known, r.fresh(repo, tag, known))
}

// HeldDigest returns the manifest of a digest if it is held.
func (r *Resolver) HeldDigest(repo Repository, d digest.Digest) (a Answer, ok bool) {
	m, ok := r.manifest(repo, d)
	if !ok {
		return Answer{}, false
	}
	return held(m, Fresh), true
}

// HeldTags is HeldTag for the list of a repository's tags.
func (r *Resolver) HeldTags(repo Repository) (Answer, bool) {
	return r.heldList(repo, repo.name(index.KindTagList, ""))
}

// HeldReferrers is HeldTag for the list of the manifests that refer to subject.
func (r *Resolver) HeldReferrers(repo Repository, subject digest.Digest) (Answer, bool) {
	return r.heldList(repo, repo.name(index.KindReferrers, subject.String()))
}

func (r *Resolver) heldList(repo Repository, name index.Name) (a Answer, ok bool) {
	known, ok := r.tags.get(name)
	if !ok {
		return Answer{}, false
	}
	return r.heldAs(repo, known, r.freshList(repo, r.o.Now().Sub(known.Confirmed)))
}

// heldAs returns what a name was last known to name, if it is held.
func (r *Resolver) heldAs(repo Repository, known index.Tag, fresh bool) (Answer, bool) {
	state := Fresh
	if !fresh {
		state = Stale
		if !r.mayBeStale(repo, known) {
			return Answer{}, false
		}
	}
	answer := r.withBody(repo, r.describe(known, state))
	return answer, answer.Body != nil
}

// asksElsewhere reports whether others are asked for what this box cannot answer itself,
// because its upstream has failed with err.
func (r *Resolver) asksElsewhere(ctx context.Context, repo Repository, err error) bool {
	return err != nil && repo.Elsewhere != nil && repo.StaleFor != 0 && r.failing(ctx, repo, err)
}

// orElsewhere returns what others hold of a tag, where asking about it has failed with err
// because the upstream fails. It stores the manifest, and not that the tag names it: others
// are not believed once the upstream answers.
func (r *Resolver) orElsewhere(ctx context.Context, repo Repository, tag string, answer Answer, err error) (Answer, error) {
	if !r.asksElsewhere(ctx, repo, err) {
		return answer, err
	}
	m, age, none := repo.Elsewhere.Tag(ctx, tag)
	if none != nil {
		return answer, err
	}
	return r.fromElsewhere(repo, r.keep(repo, m, func() {}), age, err), nil
}

// fromElsewhere is an answer of others.
func (r *Resolver) fromElsewhere(repo Repository, a Answer, age time.Duration, err error) Answer {
	r.staleness.served(repo.Host, r.o.Now())
	a.State, a.Age, a.Trouble = Stale, age, err
	return a
}

// listElsewhere is orElsewhere for a list.
func (r *Resolver) listElsewhere(ctx context.Context, repo Repository, l list, err error) (Answer, error) {
	if !r.asksElsewhere(ctx, repo, err) {
		return Answer{}, err
	}
	all, age, none := l.others(ctx)
	if none != nil {
		return Answer{}, err
	}
	body, none := json.Marshal(all)
	if none != nil {
		return Answer{}, err
	}
	d := upstream.Descriptor{Digest: digest.FromBytes(body), MediaType: l.mediaType, Size: int64(len(body))}
	return r.fromElsewhere(repo, Answer{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Body: body}, age, err), nil
}
