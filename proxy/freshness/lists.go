package freshness

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// tooLongFor is how long it is remembered that a list is too long: repositories
// seldom shrink.
const tooLongFor = time.Hour

// Index is an OCI index with its descriptors as the registry sent them.
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
}

// list is a list of a registry. It is stored like a manifest, and has a name
// like a tag.
type list struct {
	name      index.Name
	mediaType string
	ask       func(context.Context) (all any, err error)
	others    func(context.Context) (all any, age time.Duration, err error) // what they hold; Repository.Elsewhere is not nil
	keep      func(body []byte) bool                                        // whether it is written to the index
}

// Tags returns all tags of a repository: a JSON array, in the order of their
// bytes. If there are too many, the error is upstream.ErrTooLong.
func (r *Resolver) Tags(ctx context.Context, repo Repository) (Answer, error) {
	return r.list(ctx, repo, list{
		name: repo.name(index.KindTagList, ""), mediaType: "application/json",
		ask: func(ctx context.Context) (any, error) { return repo.Registry(ctx).Tags(ctx, repo.Name) },
		others: func(ctx context.Context) (any, time.Duration, error) {
			tags, age, err := repo.Elsewhere.Tags(ctx)
			slices.Sort(tags)
			return slices.Compact(tags), age, err
		},
		keep: func([]byte) bool { return true },
	})
}

// Referrers returns the Index of all manifests that refer to subject, as JSON. If
// there are too many, the error is upstream.ErrTooLong.
func (r *Resolver) Referrers(ctx context.Context, repo Repository, subject digest.Digest) (Answer, error) {
	return r.list(ctx, repo, list{
		name: repo.name(index.KindReferrers, subject.String()), mediaType: ocispec.MediaTypeImageIndex,
		ask: func(ctx context.Context) (any, error) {
			found, err := repo.Registry(ctx).Referrers(ctx, repo.Name, subject)
			return Index{2, ocispec.MediaTypeImageIndex, found}, err
		},
		others: func(ctx context.Context) (any, time.Duration, error) {
			found, age, err := repo.Elsewhere.Referrers(ctx, subject)
			return Index{2, ocispec.MediaTypeImageIndex, found}, age, err
		},
		// A client can make up any number of digests to which nothing refers.
		keep: func(body []byte) bool { return len(body) > emptyIndex || r.holds(repo, subject) },
	})
}

// KnowsTags reports whether a repository's list of tags is known, be it stale.
func (r *Resolver) KnowsTags(repo Repository) bool { return r.knows(repo.name(index.KindTagList, "")) }

// KnowsReferrers is KnowsTags for the manifests that refer to subject.
func (r *Resolver) KnowsReferrers(repo Repository, subject digest.Digest) bool {
	return r.knows(repo.name(index.KindReferrers, subject.String()))
}

// Empty reports whether the answer is an Index without manifests.
func (a Answer) Empty() bool { return len(a.Body) <= emptyIndex }

// emptyIndex is the length of an Index without manifests.
var emptyIndex = func() int {
	body, _ := json.Marshal(Index{2, ocispec.MediaTypeImageIndex, []json.RawMessage{}}) // cannot fail
	return len(body)
}()

// list returns a list: the held one while it is fresh, and else what the
// registry says; concurrent calls share one request.
func (r *Resolver) list(ctx context.Context, repo Repository, l list) (Answer, error) {
	if answer, held := r.freshHeld(repo, l); held {
		return answer, nil
	}
	known, ok := r.tags.get(l.name)
	question := repo.question("list", l.name.String())
	renew := func(ctx context.Context) (Answer, error) { return r.renew(ctx, repo, l, question) }
	if !ok {
		return r.share(ctx, question, renew)
	}
	return r.revalidate(ctx, repo, question, known, renew)
}

// freshHeld returns a list if it is held and fresh.
func (r *Resolver) freshHeld(repo Repository, l list) (answer Answer, held bool) {
	known, ok := r.tags.get(l.name)
	if !ok || !r.freshList(repo, r.o.Now().Sub(known.Confirmed)) {
		return Answer{}, false
	}
	answer = r.withBody(repo, r.describe(known, Fresh))
	return answer, answer.Body != nil
}

// renew asks the registry for a list.
func (r *Resolver) renew(ctx context.Context, repo Repository, l list, question string) (Answer, error) {
	if answer, held := r.freshHeld(repo, l); held { // by a request that has just ended
		return answer, nil
	}
	key := l.name.String()
	if err := r.failures.Of(key); err != nil {
		return Answer{}, err
	}
	known, ok := r.tags.get(l.name)
	asked := r.o.Now()
	body, err := l.body(ctx)
	if errors.Is(err, upstream.ErrTooLong) {
		r.failures.Note(key, err, tooLongFor)
	}
	switch {
	case err == nil:
		r.failures.Forget(question)
		r.refusals.answered(repo)
		return r.keepList(repo, l, body, known, asked), nil
	case !ok:
		return r.listElsewhere(ctx, repo, l, r.remember(repo, key, err))
	}
	answer, err := r.afterFailure(ctx, repo, l.name, question, known, err)
	if err != nil {
		return r.listElsewhere(ctx, repo, l, err)
	}
	return answer, nil
}

// body asks for the list and returns it as it is stored.
func (l list) body(ctx context.Context) ([]byte, error) {
	all, err := l.ask(ctx)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(all)
	if err == nil && len(body) > cache.MaxManifest {
		err = upstream.ErrTooLong
	}
	return body, err
}

// keepList stores a list that the registry sent, and that was asked for at the
// time asked. Being in it gives no right to the manifests that it names.
func (r *Resolver) keepList(repo Repository, l list, body []byte, known index.Tag, asked time.Time) Answer {
	m := upstream.Manifest{Body: body, Descriptor: upstream.Descriptor{
		Digest: digest.FromBytes(body), MediaType: l.mediaType, Size: int64(len(body)),
	}}
	one := tagAt(m.Descriptor, asked, index.ViaList)
	state := Fetched
	if m.Digest == known.Digest {
		state, one.FirstSeen = Confirmed, known.FirstSeen
	}
	stored := func() { // by then it may have been forgotten again
		if l.keep(body) {
			r.tags.save(l.name, one.Digest, lazily)
		}
	}
	r.tags.update(l.name, notYet, func(index.Tag, bool) index.Tag { return one })
	if r.holds(repo, m.Digest) {
		stored()
	} else {
		r.keep(repo, m, stored)
	}
	return Answer{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, Body: body, State: state}
}
