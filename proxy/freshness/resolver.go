// Package freshness knows what a tag means now: how old an answer may be, when
// the upstream is asked again, and what is served while it fails. It knows tags,
// digests and time; it knows neither HTTP requests nor files.
//
// Files: repository.go (what is asked about), resolver.go (tags and digests), check.go
// (stale tags, and failing upstreams), keep.go (tags that do not follow their registry:
// frozen, and in their cool-down), operator.go (freeze, roll back, thaw, adopt),
// import.go (tags that an operator brings), history.go (the past of a tag), head.go
// (HEAD against GET), lists.go (lists of tags and referrers), rules.go (TTLs),
// coalesce.go (concurrent requests for the same thing), failures.go (the negative
// cache), refusals.go (registries that refuse everything), elsewhere.go (what is held,
// for others, and what others hold while the upstream fails), tags.go (what is known, in
// memory and in the index), outage.go (what would be answered in an outage), status.go
// (what an operator can see).
package freshness

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// Store holds manifests.
type Store interface {
	Manifest(d digest.Digest) (cache.Manifest, bool)
	// PutManifest stores a manifest, and calls stored once it is on disk.
	PutManifest(m cache.Manifest, stored func())
	// CameFrom reports whether a restricted manifest came from host.
	CameFrom(d digest.Digest, host string) bool
	// Images and Has are those of cache.Cache.
	Images(d digest.Digest) (images []cache.Image, missing []content.Part)
	Has(want cache.Want) bool
}

// Options is what a Resolver needs; every field but Rules, Cooldowns, KeepDeleted
// and Changed is required.
type Options struct {
	Store       Store
	Index       *index.Index
	Rules       []Rule // where none matches, Repository.TTL applies
	Cooldowns   []Cooldown
	KeepDeleted bool // keep serving what the upstream has deleted
	// Changed is called with each tag that names another digest than before, whose
	// registry does, or whose freeze has changed. It must not block.
	Changed func(TagStatus)
	Metrics *metrics.Fills
	Now     func() time.Time
	After   func(time.Duration) <-chan time.Time // time.After on the clock of Now
	Log     *slog.Logger
}

// Resolver returns what tags and digests name. Concurrent requests for the same
// thing share one upstream request, which goes on when its clients leave. Its
// methods are safe for concurrent use.
type Resolver struct {
	o         Options
	tags      *tags
	failures  *Failures // by question, or by the key of what was not found
	flight    singleflight.Group
	refusals  *refusals
	staleness staleness
	// byTag has, for the key of each repository of which a manifest is being
	// fetched by tag, a channel that is closed when the latest such fetch ends.
	byTag sync.Map
}

// New returns a Resolver, which must be closed.
func New(o Options) *Resolver {
	r := &Resolver{o: o, tags: newTags(o.Index, o.Metrics, o.Log), failures: NewFailures(o.Now), refusals: newRefusals(o.Now, o.Log)}
	if o.Changed != nil {
		r.tags.changed = func(name index.Name, now index.Tag) { o.Changed(r.tagStatus(name, now)) }
	}
	return r
}

// Close writes to the index what it does not have yet.
func (r *Resolver) Close() { r.tags.close() }

// State is where an answer comes from.
type State uint8

// The states of an answer.
const (
	Fresh     State = iota // held, and young enough
	Confirmed              // held, and revalidated now
	Stale                  // held, and the upstream fails
	Fetched                // from the upstream, and stored
	Joined                 // from the upstream, by the request of another client
	HeadOnly               // from the upstream: a description of what is not held
	Earlier                // held: what the tag named before, as its present digest cannot be had
)

// Answer is what a reference names.
type Answer struct {
	Digest    digest.Digest
	MediaType string
	Size      int64  // bytes; negative if the registry did not say
	Body      []byte // nil if only a description was asked for and the manifest is not held
	State     State
	Age       time.Duration // since the upstream last confirmed it; 0 for now
	Trouble   error         // why the answer is stale
	Deleted   bool          // the answer is stale because the upstream has deleted it
	Tag       TagState      // of the tag that was asked for; Following or empty if it is none, or new
}

// Head returns a description of what a tag names. An unknown tag costs one HEAD.
func (r *Resolver) Head(ctx context.Context, repo Repository, tag string) (Answer, error) {
	name := repo.tag(tag)
	known, ok := r.tags.get(name)
	if ok && r.fresh(repo, tag, known) {
		if known.Frozen != nil {
			r.watch(ctx, repo, tag, known)
		}
		return r.describe(known, Fresh), nil
	}
	if ok && r.holds(repo, known.Digest) {
		return r.recheck(ctx, repo, tag, known)
	}
	return r.share(ctx, repo.question("head", name.String()), func(ctx context.Context) (Answer, error) {
		answer, err := r.headTag(ctx, repo, tag)
		return r.orElsewhere(ctx, repo, tag, answer, err)
	})
}

// headTag asks what a tag names of which nothing is held.
func (r *Resolver) headTag(ctx context.Context, repo Repository, tag string) (Answer, error) {
	name := repo.tag(tag)
	known, ok := r.tags.get(name)
	if ok && r.fresh(repo, tag, known) {
		return r.describe(known, Fresh), nil
	}
	asked := r.o.Now()
	d, err := r.headUnknown(ctx, repo, tag, name.String())
	switch {
	case errors.Is(err, errNoHead):
		return r.fetchTag(ctx, repo, tag)
	case err != nil:
		return Answer{}, err
	}
	r.tags.update(name, lazily, r.moved(repo, d, asked))
	return Answer{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, State: HeadOnly}, nil
}

// Get returns the manifest that a tag names. An unknown tag costs one GET; a
// stale one a HEAD, and a GET if it has moved.
func (r *Resolver) Get(ctx context.Context, repo Repository, tag string) (Answer, error) {
	known, ok := r.tags.get(repo.tag(tag))
	switch {
	case !ok:
		return r.fetchOnce(ctx, repo, tag)
	case r.fresh(repo, tag, known):
		if known.Frozen != nil {
			r.watch(ctx, repo, tag, known)
		}
		return r.complete(ctx, repo, tag, r.describe(known, Fresh))
	}
	answer, err := r.recheck(ctx, repo, tag, known)
	if err != nil {
		return answer, err
	}
	return r.complete(ctx, repo, tag, answer)
}

// Knows reports whether a tag is known, even a stale one.
func (r *Resolver) Knows(repo Repository, tag string) bool { return r.knows(repo.tag(tag)) }

func (r *Resolver) knows(name index.Name) bool {
	_, ok := r.tags.get(name)
	return ok
}

// complete adds the manifest to a description of it.
func (r *Resolver) complete(ctx context.Context, repo Repository, tag string, answer Answer) (Answer, error) {
	if answer = r.withBody(repo, answer); answer.Body != nil {
		return answer, nil
	}
	return r.fetchOnce(ctx, repo, tag)
}

// fetchOnce fetches the manifest of a tag: by digest if the tag is known and
// fresh by then, else by tag. Concurrent calls share one fetch.
func (r *Resolver) fetchOnce(ctx context.Context, repo Repository, tag string) (Answer, error) {
	return r.share(ctx, repo.question("get", repo.tag(tag).String()), func(ctx context.Context) (Answer, error) {
		answer, err := r.fetchKnown(ctx, repo, tag)
		return r.orElsewhere(ctx, repo, tag, answer, err)
	})
}

// fetchKnown fetches the manifest of a tag: by digest if the tag is known and fresh,
// else by tag.
func (r *Resolver) fetchKnown(ctx context.Context, repo Repository, tag string) (Answer, error) {
	name := repo.tag(tag)
	known, ok := r.tags.get(name)
	if !ok || !r.fresh(repo, tag, known) {
		return r.fetchTag(ctx, repo, tag)
	}
	fetched, err := r.Digest(ctx, repo, known.Digest)
	if isGone(err) && !r.frozen(known) { // the tag may have moved since
		r.forget(name, known)
		return r.fetchTag(ctx, repo, tag)
	}
	fetched.Tag = r.stateOf(known)
	return fetched, err
}

// Digest returns the manifest of a digest, and fetches it if it is not held.
func (r *Resolver) Digest(ctx context.Context, repo Repository, d digest.Digest) (Answer, error) {
	if m, ok := r.manifest(repo, d); ok {
		return held(m, Fresh), nil
	}
	return r.share(ctx, repo.question("digest", repo.digest(d)), func(ctx context.Context) (Answer, error) {
		if fetching, ok := r.byTag.Load(repo.key()); ok && !repo.Peer {
			<-fetching.(chan struct{}) // it may bring this manifest
		}
		return r.fetch(ctx, repo, d, func() {})
	})
}

// HeadDigest returns a description of the manifest of a digest, and asks for it
// if the manifest is not held.
func (r *Resolver) HeadDigest(ctx context.Context, repo Repository, d digest.Digest) (Answer, error) {
	if m, ok := r.manifest(repo, d); ok {
		return held(m, Fresh), nil
	}
	key := repo.digest(d)
	return r.share(ctx, repo.question("head", key), func(ctx context.Context) (Answer, error) {
		found, err := r.headUnknown(ctx, repo, d.String(), key)
		switch {
		case errors.Is(err, errNoHead):
			return r.fetch(ctx, repo, d, func() {})
		case err != nil:
			return Answer{}, err
		}
		return Answer{Digest: d, MediaType: found.MediaType, Size: found.Size, State: HeadOnly}, nil
	})
}

// fetchTag fetches the manifest that a tag names, and moves the tag to it.
func (r *Resolver) fetchTag(ctx context.Context, repo Repository, tag string) (Answer, error) {
	name := repo.tag(tag)
	key := name.String()
	if err := r.failures.Of(key); err != nil {
		return Answer{}, err
	}
	defer r.fetchingByTag(repo.key())()
	asked := r.o.Now()
	m, err := repo.Registry(ctx).GetManifest(ctx, repo.Name, tag)
	if err != nil {
		return Answer{}, r.remember(repo, key, err)
	}
	r.refusals.answered(repo)
	r.settle(repo, key)
	if known, ok := r.tags.get(name); ok && !r.follows(repo, tag, known, m.Digest, asked) {
		return r.stays(repo, name, known, m.Digest, asked), nil
	}
	moved := r.moved(repo, m.Descriptor, asked)
	answer := r.keep(repo, m, func() { r.tags.update(name, synced, moved) })
	r.tags.update(name, notYet, moved)
	return answer, nil
}

// fetchingByTag records that a manifest of a repository is being fetched by tag,
// until done is called.
func (r *Resolver) fetchingByTag(repository string) (done func()) {
	ended := make(chan struct{})
	r.byTag.Store(repository, ended)
	return func() {
		r.byTag.CompareAndDelete(repository, ended)
		close(ended)
	}
}

// fetch returns the manifest of a digest: the held one, or a fetched one. It
// calls stored when the manifest is on disk.
func (r *Resolver) fetch(ctx context.Context, repo Repository, d digest.Digest, stored func()) (Answer, error) {
	if m, ok := r.manifest(repo, d); ok {
		stored()
		return held(m, Fresh), nil
	}
	key := repo.digest(d)
	if err := r.failures.Of(key); err != nil {
		return Answer{}, err
	}
	m, err := repo.Registry(ctx).GetManifest(ctx, repo.Name, d.String())
	if err != nil {
		return Answer{}, r.remember(repo, key, err)
	}
	r.settle(repo, key)
	return r.keep(repo, m, stored), nil
}

// manifest returns the manifest of d if it is held, and may be seen in the
// repository.
func (r *Resolver) manifest(repo Repository, d digest.Digest) (cache.Manifest, bool) {
	m, ok := r.o.Store.Manifest(d)
	if ok && m.Restricted && (repo.Restricted == nil || !repo.Restricted.Links.Linked(repo.Host, repo.Name, d) || !r.o.Store.CameFrom(d, repo.Host)) {
		return cache.Manifest{}, false
	}
	return m, ok
}

// keep stores a manifest.
func (r *Resolver) keep(repo Repository, m upstream.Manifest, stored func()) Answer {
	one := cache.Manifest{Digest: m.Digest, MediaType: m.MediaType, Body: m.Body, Parts: m.Parts}
	if repo.Restricted != nil {
		one.Restricted, one.Host = true, repo.Host
		repo.Restricted.Links.Link(repo.Host, repo.Name, m.Digest)
	}
	r.o.Store.PutManifest(one, stored)
	return held(one, Fetched)
}

// tagAt returns a tag without a history that names d since the time at.
func tagAt(d upstream.Descriptor, at time.Time, via index.Via) index.Tag {
	return index.Tag{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Confirmed: at, FirstSeen: at, Via: via}
}

// Earlier iterates over the digests of a tag that clients were given before and
// whose manifests are held, the latest first.
func (r *Resolver) Earlier(repo Repository, tag string) iter.Seq[Answer] {
	return func(yield func(Answer) bool) {
		known, _ := r.tags.get(repo.tag(tag))
		for _, one := range known.Earlier {
			m, ok := r.manifest(repo, one.Digest)
			if !ok || one.Unserved {
				continue
			}
			answer := held(m, Earlier)
			answer.Age = max(r.o.Now().Sub(time.Unix(one.Confirmed, 0)), 0)
			if !yield(answer) {
				return
			}
		}
	}
}

func (r *Resolver) holds(repo Repository, d digest.Digest) bool {
	_, ok := r.manifest(repo, d)
	return ok
}

func (r *Resolver) describe(known index.Tag, state State) Answer {
	return Answer{
		Digest: known.Digest, MediaType: known.MediaType, Size: known.Size, State: state,
		Age: max(r.o.Now().Sub(known.Confirmed), 0), Tag: r.stateOf(known),
	}
}

// withBody adds the manifest if it is held.
func (r *Resolver) withBody(repo Repository, a Answer) Answer {
	if m, ok := r.manifest(repo, a.Digest); ok {
		a.Body, a.MediaType, a.Size = m.Body, m.MediaType, int64(len(m.Body))
	}
	return a
}

func held(m cache.Manifest, state State) Answer {
	return Answer{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Body)), Body: m.Body, State: state}
}
