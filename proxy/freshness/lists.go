package freshness

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// longFor is how long it is remembered that a list is too long: a repository
// seldom shrinks.
const longFor = time.Hour

// Lister is what is asked of an upstream about a repository as a whole.
type Lister interface {
	Tags(ctx context.Context, repository string) ([]string, error)
	Referrers(ctx context.Context, repository string, subject digest.Digest) ([]json.RawMessage, error)
}

// Index is an OCI index with its descriptors as the registry has them.
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
}

// list is something that a registry lists. It is kept like a manifest, and
// known by a name like a tag.
type list struct {
	key       string
	mediaType string
	ask       func(context.Context) (all any, err error)
	worth     func(body []byte) bool // keeping for longer than this process
}

// list is what the repository's list of a name is known by.
func (p Repository) list(name string) string { return strings.TrimSuffix(p.tag(""), ":") + " " + name }

// Tags answers with all tags of a repository: a JSON array, in the order of
// their bytes. Where there are too many it is upstream.ErrTooLong.
func (r *Resolver) Tags(ctx context.Context, repo Repository) (Answer, error) {
	return r.list(ctx, repo, list{
		key: repo.list("tags"), mediaType: "application/json",
		ask:   func(ctx context.Context) (any, error) { return repo.Registry(ctx).Tags(ctx, repo.Name) },
		worth: func([]byte) bool { return true },
	})
}

// Referrers answers with the Index of all manifests that refer to subject, as
// JSON. Where there are too many it is upstream.ErrTooLong.
func (r *Resolver) Referrers(ctx context.Context, repo Repository, subject digest.Digest) (Answer, error) {
	return r.list(ctx, repo, list{
		key: repo.list("referrers " + subject.String()), mediaType: ocispec.MediaTypeImageIndex,
		ask: func(ctx context.Context) (any, error) {
			found, err := repo.Registry(ctx).Referrers(ctx, repo.Name, subject)
			return Index{2, ocispec.MediaTypeImageIndex, found}, err
		},
		// Anybody can think up a digest to which nothing refers.
		worth: func(body []byte) bool { return len(body) > emptyIndex || r.holds(repo, subject) },
	})
}

// KnowsTags tells whether a list of a repository's tags is known, be it past
// its time.
func (r *Resolver) KnowsTags(repo Repository) bool { return r.knows(repo.list("tags")) }

// KnowsReferrers is KnowsTags for the manifests that refer to subject.
func (r *Resolver) KnowsReferrers(repo Repository, subject digest.Digest) bool {
	return r.knows(repo.list("referrers " + subject.String()))
}

// Empty tells an answer with the Index of nothing.
func (a Answer) Empty() bool { return len(a.Body) <= emptyIndex }

// emptyIndex is the length of an Index of nothing.
var emptyIndex = func() int {
	body, _ := json.Marshal(Index{2, ocispec.MediaTypeImageIndex, []json.RawMessage{}}) // nothing in it can fail
	return len(body)
}()

// list answers with a list: the one that is held while it is young, and else
// what the registry says, asked once for all who ask at one time.
func (r *Resolver) list(ctx context.Context, repo Repository, l list) (Answer, error) {
	if answer, held := r.freshHeld(repo, l); held {
		return answer, nil
	}
	known, ok := r.tags.get(l.key)
	question := repo.question("list", l.key)
	renew := func(ctx context.Context) (Answer, error) { return r.renew(ctx, repo, l, question) }
	if !ok {
		return r.share(ctx, question, renew)
	}
	return r.soon(ctx, repo, question, known, renew)
}

// freshHeld is a list that is here, and young enough.
func (r *Resolver) freshHeld(repo Repository, l list) (answer Answer, held bool) {
	known, ok := r.tags.get(l.key)
	if !ok || !r.freshList(repo, r.age(known)) {
		return Answer{}, false
	}
	answer = r.withBody(repo, r.describe(known, Fresh))
	return answer, answer.Body != nil
}

// renew asks the registry for a list.
func (r *Resolver) renew(ctx context.Context, repo Repository, l list, question string) (Answer, error) {
	if answer, held := r.freshHeld(repo, l); held { // since a question that has just ended
		return answer, nil
	}
	if err := r.failures.Of(l.key); err != nil {
		return Answer{}, err
	}
	known, ok := r.tags.get(l.key)
	asked := r.now()
	body, err := l.body(ctx)
	if errors.Is(err, upstream.ErrTooLong) {
		r.failures.Note(l.key, err, longFor)
	}
	switch {
	case err == nil:
		r.failures.Forget(question)
		r.refusals.answered(repo)
		return r.keepList(repo, l, body, known, asked), nil
	case !ok:
		return Answer{}, r.remember(repo, l.key, err)
	default:
		return r.without(ctx, repo, l.key, question, known, err)
	}
}

// body is the list as it is kept.
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

// keepList stores a list that the registry has given, asked at the time asked.
// What it names is for the registry to open.
func (r *Resolver) keepList(repo Repository, l list, body []byte, known index.Tag, asked time.Time) Answer {
	m := upstream.Manifest{Body: body, Descriptor: upstream.Descriptor{
		Digest: digest.FromBytes(body), MediaType: l.mediaType, Size: int64(len(body)),
	}}
	one := namedAt(m.Descriptor, asked)
	stored := func() { // by then it may have been forgotten again
		if l.worth(body) {
			r.tags.saveCurrent(l.key, one)
		}
	}
	r.tags.set(l.key, one)
	if r.holds(repo, m.Digest) {
		stored()
	} else {
		r.keep(repo, m, stored)
	}
	state := Fetched
	if m.Digest == known.Digest {
		state = Confirmed
	}
	return Answer{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, Body: body, State: state}
}
