// Package freshness knows what a tag means now: how old the answer may be,
// when to ask again, and what to say when nobody answers. It knows tags,
// digests and time; it knows neither HTTP requests nor files.
//
// Files: resolver.go (the questions), lists.go (those about a repository as a
// whole), check.go (a tag past its time, and an upstream in trouble), rules.go
// (how long a tag is fresh), failures.go (what had no good answer a moment
// ago), refusals.go (registries that refuse everything), tags.go (what is known of tags, in memory and behind it in the index).
package freshness

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"hubcap/cache"
	"hubcap/cache/index"
	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// Registry is what is asked of an upstream.
type Registry interface {
	HeadManifest(ctx context.Context, repository, reference string) (upstream.Descriptor, error)
	GetManifest(ctx context.Context, repository, reference string) (upstream.Manifest, error)
	Lister
	// Credentials tells whether it is asked with the box's credentials.
	Credentials() bool
}

// Store holds manifests.
type Store interface {
	Manifest(d digest.Digest) (cache.Manifest, bool)
	PutManifest(m cache.Manifest, stored func())
	// CameFrom tells whether a closed manifest was got from host.
	CameFrom(d digest.Digest, host string) bool
}

// Options is what a Resolver needs; every field but Rules and KeepDeleted is
// required.
type Options struct {
	Store       Store
	Index       *index.Index
	Rules       []Rule // for what no rule matches, Repository.TTL counts
	KeepDeleted bool   // go on answering with what the upstream has deleted
	Metrics     *metrics.Fills
	Now         func() time.Time
	After       func(time.Duration) <-chan time.Time // as time.After, on Now's clock
	Log         *slog.Logger
}

// Resolver answers what tags and digests name. Identical questions at one
// time are asked once, and the asking outlives whoever asked first.
type Resolver struct {
	store       Store
	tags        *tags
	rules       []Rule
	keepDeleted bool
	failures    *Failures // by question; what is not there by the tag or digest alone, however it is asked for
	now         func() time.Time
	after       func(time.Duration) <-chan time.Time
	log         *slog.Logger
	flight      singleflight.Group
	refusals    *refusals

	mu    sync.Mutex
	byTag map[string]chan struct{} // repositories of which a manifest is being fetched by tag; closed at the end
}

// New returns a Resolver; Close writes out what it learned.
func New(o Options) *Resolver {
	return &Resolver{
		store: o.Store, tags: newTags(o.Index, o.Metrics, o.Log), rules: o.Rules, keepDeleted: o.KeepDeleted,
		failures: NewFailures(o.Now), now: o.Now, after: o.After, log: o.Log, byTag: make(map[string]chan struct{}),
		refusals: newRefusals(o.Now, o.Log),
	}
}

// Close writes out what the index does not know yet.
func (r *Resolver) Close() { r.tags.close() }

// Repository is where a question goes.
type Repository struct {
	Host string        // the registry, as it is configured
	Name string        // as the registry knows it
	TTL  time.Duration // how long a tag is answered without asking, where no rule says it
	// StaleFor is for how long what is held is served while the upstream
	// fails, from the first check that failed; negative for any time.
	StaleFor time.Duration
	// Registry gives who is asked, when somebody must be.
	Registry func(ctx context.Context) Registry
	Private  *Private // nil for one whose content is for everybody
}

// Private is what else there is to a repository whose content is not for
// everybody. Who asks may see the repository: that was settled before.
type Private struct {
	Links Links
	Asker string // whose questions are answered to nobody else; empty when they may be
}

// Links knows which manifests belong to one repository.
type Links interface {
	Linked(d digest.Digest) bool
	Link(d digest.Digest)
}

// tag is what the repository's tag is known by. What was learned of a private
// repository is not found once it is treated as a public one.
func (p Repository) tag(tag string) string {
	name := p.Host + "/" + p.Name + ":" + tag
	if p.Private != nil {
		return "closed " + name
	}
	return name
}

// question is what identical questions are known by.
func (p Repository) question(kind, name string) string {
	if p.Private != nil {
		kind += " " + p.Private.Asker
	}
	return kind + " " + name
}

// State is where an answer comes from.
type State uint8

// The states of an answer.
const (
	Fresh     State = iota // held, and young enough
	Confirmed              // held, and the upstream says it is still so
	Stale                  // held, and the upstream does not answer
	Fetched                // from the upstream, and kept
	Joined                 // from the upstream, by another request's question
	Passed                 // from the upstream, a description only
	Earlier                // held; what the tag named before, since what it names now cannot be had
)

// Answer is what a reference names.
type Answer struct {
	Digest    digest.Digest
	MediaType string
	Size      int64  // bytes; negative when the registry did not say
	Body      []byte // nil when only the description was asked for and the manifest is not held
	State     State
	Age       time.Duration // since the upstream last confirmed it; 0 when it is of now
	Trouble   error         // why the answer is stale
	Deleted   bool          // the answer is stale because the upstream has deleted it
}

// errNoHead says that a registry does not answer a HEAD as it should.
var errNoHead = errors.New("no digest on HEAD")

// Head answers what a tag names. A tag that nothing is known of costs one
// HEAD.
func (r *Resolver) Head(ctx context.Context, repo Repository, tag string) (Answer, error) {
	key := repo.tag(tag)
	known, ok := r.tags.get(key)
	if ok && r.fresh(repo, tag, r.age(known)) {
		return r.describe(known, Fresh), nil
	}
	if ok && r.holds(repo, known.Digest) {
		return r.recheck(ctx, repo, tag, known)
	}
	return r.share(ctx, repo.question("head", key), func(ctx context.Context) (Answer, error) {
		if known, ok := r.tags.get(key); ok && r.fresh(repo, tag, r.age(known)) {
			return r.describe(known, Fresh), nil
		}
		if err := r.absent(key); err != nil {
			return Answer{}, err
		}
		asked := r.now()
		d, err := r.head(ctx, repo, tag)
		if errors.Is(err, errNoHead) {
			return r.fetchTag(ctx, repo, tag)
		}
		if err != nil {
			return Answer{}, r.remember(repo, byHead(key), err)
		}
		one := r.tagOf(key, d, asked)
		r.tags.set(key, one)
		r.tags.save(key, one, false)
		return Answer{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, State: Passed}, nil
	})
}

// Get answers with the manifest that a tag names. A tag that nothing is known
// of costs one GET; one past its time one HEAD, and a GET when it has moved.
func (r *Resolver) Get(ctx context.Context, repo Repository, tag string) (Answer, error) {
	known, ok := r.tags.get(repo.tag(tag))
	switch {
	case !ok:
		return r.fetchOnce(ctx, repo, tag)
	case r.fresh(repo, tag, r.age(known)):
		return r.complete(ctx, repo, tag, r.describe(known, Fresh))
	}
	answer, err := r.recheck(ctx, repo, tag, known)
	if err != nil {
		return answer, err
	}
	return r.complete(ctx, repo, tag, answer)
}

// Knows tells whether something is known of a tag, be it past its time.
func (r *Resolver) Knows(repo Repository, tag string) bool { return r.knows(repo.tag(tag)) }

func (r *Resolver) knows(key string) bool {
	_, ok := r.tags.get(key)
	return ok
}

// complete adds the manifest to a description of it.
func (r *Resolver) complete(ctx context.Context, repo Repository, tag string, answer Answer) (Answer, error) {
	if answer = r.withBody(repo, answer); answer.Body != nil {
		return answer, nil
	}
	return r.fetchOnce(ctx, repo, tag)
}

// fetchOnce brings a tag's manifest in: by digest if that is known by now, by
// the tag if not. Whoever lacks it shares the fetch, and who comes a moment
// late finds it done.
func (r *Resolver) fetchOnce(ctx context.Context, repo Repository, tag string) (Answer, error) {
	key := repo.tag(tag)
	return r.share(ctx, repo.question("get", key), func(ctx context.Context) (Answer, error) {
		known, ok := r.tags.get(key)
		if !ok || !r.fresh(repo, tag, r.age(known)) {
			return r.fetchTag(ctx, repo, tag)
		}
		fetched, err := r.Digest(ctx, repo, known.Digest)
		if isGone(err) { // the tag may have moved since
			r.tags.forget(key, known.Digest)
			return r.fetchTag(ctx, repo, tag)
		}
		return fetched, err
	})
}

// Digest answers with the manifest of a digest, fetching it where it is not
// held.
func (r *Resolver) Digest(ctx context.Context, repo Repository, d digest.Digest) (Answer, error) {
	if m, ok := r.manifest(repo, d); ok {
		return held(m, Fresh), nil
	}
	return r.share(ctx, repo.question("digest", repo.tag("@"+d.String())), func(ctx context.Context) (Answer, error) {
		r.awaitTag(repo) // it may be this one, asked for by its name
		return r.fetch(ctx, repo, d.String(), func() {})
	})
}

// awaitTag waits until no manifest of the repository is being fetched by tag.
func (r *Resolver) awaitTag(repo Repository) {
	r.mu.Lock()
	fetching := r.byTag[repo.tag("")]
	r.mu.Unlock()
	if fetching != nil {
		<-fetching
	}
}

// fetchingTag notes that a manifest is being fetched by tag until done is
// called. Of several in one repository the last one is waited for.
func (r *Resolver) fetchingTag(repo Repository) (done func()) {
	key, fetching := repo.tag(""), make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byTag[key] = fetching
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.byTag[key] == fetching {
			delete(r.byTag, key)
		}
		close(fetching)
	}
}

// HeadDigest describes the manifest of a digest, asking where it is not held.
func (r *Resolver) HeadDigest(ctx context.Context, repo Repository, d digest.Digest) (Answer, error) {
	if m, ok := r.manifest(repo, d); ok {
		return held(m, Fresh), nil
	}
	key := repo.tag("@" + d.String())
	return r.share(ctx, repo.question("head", key), func(ctx context.Context) (Answer, error) {
		if err := r.absent(key); err != nil {
			return Answer{}, err
		}
		found, err := r.head(ctx, repo, d.String())
		if errors.Is(err, errNoHead) {
			return r.fetch(ctx, repo, d.String(), func() {})
		}
		if err != nil {
			return Answer{}, r.remember(repo, byHead(key), err)
		}
		return Answer{Digest: d, MediaType: found.MediaType, Size: found.Size, State: Passed}, nil
	})
}

// byHead is what a failure of a HEAD is known by. A GET is not answered with it:
// there are registries, and balancers before them, that answer HEAD with a 404
// or 403 and GET as they should.
func byHead(key string) string { return "head " + key }

// absent is the failure of a moment ago that a HEAD is answered with.
func (r *Resolver) absent(key string) error {
	if err := r.failures.Of(key); err != nil {
		return err
	}
	return r.failures.Of(byHead(key))
}

// ask sends the HEAD for a tag that is known. A registry that refuses it is to
// be asked by GET before that is believed, which is errNoHead.
func (r *Resolver) ask(ctx context.Context, repo Repository, tag string) (upstream.Descriptor, error) {
	d, err := r.head(ctx, repo, tag)
	if isKind(err, upstream.NotFound) || isKind(err, upstream.Withdrawn) || isKind(err, upstream.Denied) {
		r.doubt(repo, tag, err)
		return d, errNoHead
	}
	return d, err
}

// head sends the HEAD for a tag or digest. What is no answer to one is
// errNoHead: the registry does not know HEAD, tells no digest, or fails in a way
// that may be HEAD's own. It is not asked so again for a while, once that is
// sure: about this repository, since what is odd about one costs no pulls of the
// others.
func (r *Resolver) head(ctx context.Context, repo Repository, reference string) (upstream.Descriptor, error) {
	if err := r.failures.Of(noHead(repo)); err != nil {
		return upstream.Descriptor{}, err
	}
	d, err := repo.Registry(ctx).HeadManifest(ctx, repo.Name, reference)
	var e *upstream.Error
	switch {
	case err == nil && (d.Digest == "" && digest.Digest(reference).Validate() != nil || !isManifest(d.MediaType) || d.Size <= 0),
		errors.As(err, &e) && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented):
		r.failures.Note(noHead(repo), errNoHead, noHeadFor)
		return d, errNoHead
	case r.mayBeOfHead(repo, e):
		r.doubt(repo, reference, err)
		return d, errNoHead
	}
	return d, err
}

func noHead(repo Repository) string { return "no head " + repo.tag("") }

// isManifest reports whether a media type may be that of a manifest: JSON with a
// name.
func isManifest(mediaType string) bool {
	plain, _, err := mime.ParseMediaType(mediaType)
	return err == nil && strings.HasPrefix(plain, "application/") && strings.HasSuffix(plain, "+json")
}

// mayBeOfHead reports whether a HEAD has failed where a GET may not: by an
// answer that breaks the protocol, or behind a redirect whose address is signed
// for GET, or by an error within the registry. The last is an outage as a rule,
// and tried once in a while only.
func (r *Resolver) mayBeOfHead(repo Repository, e *upstream.Error) bool {
	switch {
	case e == nil || errors.Is(e, upstream.ErrSchema1):
		return false
	case e.Kind == upstream.Invalid, e.Kind == upstream.ServerError && e.Status >= 400 && e.Status < 500:
		return true
	case e.Status != http.StatusInternalServerError:
		return false
	}
	question := "tried " + noHead(repo)
	if r.failures.Of(question) != nil {
		return false
	}
	r.failures.Note(question, e, noHeadFor)
	return true
}

// doubt notes why a reference is asked for by GET now: should that do, the
// repository is not asked by HEAD for a while.
func (r *Resolver) doubt(repo Repository, reference string, err error) {
	r.failures.Note(repo.question("doubt", repo.tag(reference)), err, AbsentFor)
}

// settle notes that a reference was had by GET.
func (r *Resolver) settle(repo Repository, reference string) {
	doubt := repo.question("doubt", repo.tag(reference))
	if r.failures.Of(doubt) != nil {
		r.failures.Forget(doubt)
		r.failures.Note(noHead(repo), errNoHead, noHeadFor)
	}
}

// fetchTag fetches the manifest that a tag names, and moves the tag to it.
func (r *Resolver) fetchTag(ctx context.Context, repo Repository, tag string) (Answer, error) {
	key := repo.tag(tag)
	if err := r.failures.Of(key); err != nil {
		return Answer{}, err
	}
	defer r.fetchingTag(repo)()
	asked := r.now()
	m, err := repo.Registry(ctx).GetManifest(ctx, repo.Name, tag)
	if err != nil {
		return Answer{}, r.remember(repo, key, err)
	}
	r.refusals.answered(repo)
	one := r.tagOf(key, m.Descriptor, asked)
	answer := r.keep(repo, m, func() { r.tags.save(key, one, true) })
	r.tags.set(key, one)
	r.settle(repo, tag)
	return answer, nil
}

// fetch fetches a manifest by digest, or takes the one that is held.
func (r *Resolver) fetch(ctx context.Context, repo Repository, reference string, stored func()) (Answer, error) {
	if m, ok := r.manifest(repo, digest.Digest(reference)); ok {
		stored()
		return held(m, Fresh), nil
	}
	key := repo.tag("@" + reference)
	if err := r.failures.Of(key); err != nil {
		return Answer{}, err
	}
	m, err := repo.Registry(ctx).GetManifest(ctx, repo.Name, reference)
	if err != nil {
		return Answer{}, r.remember(repo, key, err)
	}
	r.settle(repo, reference)
	return r.keep(repo, m, stored), nil
}

// manifest is the manifest of d if it is held, and who asks for it in this
// repository may see it.
func (r *Resolver) manifest(repo Repository, d digest.Digest) (cache.Manifest, bool) {
	m, ok := r.store.Manifest(d)
	if ok && m.Closed && (repo.Private == nil || !repo.Private.Links.Linked(d) || !r.store.CameFrom(d, repo.Host)) {
		return cache.Manifest{}, false
	}
	return m, ok
}

// keep stores a manifest.
func (r *Resolver) keep(repo Repository, m upstream.Manifest, stored func()) Answer {
	one := cache.Manifest{Digest: m.Digest, MediaType: m.MediaType, Body: m.Body}
	if repo.Private != nil {
		one.Closed, one.Host = true, repo.Host
		repo.Private.Links.Link(m.Digest)
	}
	r.store.PutManifest(one, stored)
	return held(one, Fetched)
}

// tagOf is the tag known by key, of which the registry, asked at the time
// asked, has said that it names d: the answer may have been long on its way,
// and no tag is older than promised. In memory it may move once its manifest
// is in memory, in the index once that is on disk.
func (r *Resolver) tagOf(key string, d upstream.Descriptor, asked time.Time) index.Tag {
	known, _ := r.tags.get(key)
	return known.Moved(namedAt(d, asked))
}

// namedAt is a name, without a history, that means d since the time at.
func namedAt(d upstream.Descriptor, at time.Time) index.Tag {
	return index.Tag{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Confirmed: at}
}

// Earlier returns the digests that a tag named before and that are held, the
// latest first.
func (r *Resolver) Earlier(repo Repository, tag string) iter.Seq[Answer] {
	return func(yield func(Answer) bool) {
		known, _ := r.tags.get(repo.tag(tag))
		for _, one := range known.Earlier {
			m, ok := r.manifest(repo, one.Digest)
			if !ok {
				continue
			}
			answer := held(m, Earlier)
			answer.Age = max(r.now().Sub(time.Unix(one.Confirmed, 0)), 0)
			if !yield(answer) {
				return
			}
		}
	}
}

// Refusing reports whether a registry refuses everything at present: that says
// nothing of what it has, and what is not held is not to be had from it.
func (r *Resolver) Refusing(host string) bool { return r.refusals.refusing(host) }

// age is how long ago a tag was confirmed.
func (r *Resolver) age(known index.Tag) time.Duration { return r.now().Sub(known.Confirmed) }

func (r *Resolver) holds(repo Repository, d digest.Digest) bool {
	_, ok := r.manifest(repo, d)
	return ok
}

func (r *Resolver) describe(known index.Tag, state State) Answer {
	return Answer{
		Digest: known.Digest, MediaType: known.MediaType, Size: known.Size, State: state,
		Age: max(r.age(known), 0),
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

// question is one that is being asked, for all who ask the same.
type question struct {
	done  <-chan singleflight.Result
	asked *bool // by whom it was begun: valid once done
}

// begin asks once for all who ask the same at one time. The asking outlives
// whoever asked first.
func (r *Resolver) begin(ctx context.Context, key string, ask func(context.Context) (Answer, error)) question {
	asked := false
	return question{asked: &asked, done: r.flight.DoChan(key, func() (any, error) {
		asked = true
		return ask(context.WithoutCancel(ctx))
	})}
}

// answer is what a question came to. Whoever did not begin it has joined.
func (q question) answer(got singleflight.Result) (Answer, error) {
	if got.Err != nil {
		return Answer{}, got.Err
	}
	answer := got.Val.(Answer)
	if !*q.asked && answer.State == Fetched {
		answer.State = Joined
	}
	return answer, nil
}

// share asks once for all who ask the same at one time, and waits.
func (r *Resolver) share(ctx context.Context, key string, ask func(context.Context) (Answer, error)) (Answer, error) {
	q := r.begin(ctx, key, ask)
	select {
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	case got := <-q.done:
		return q.answer(got)
	}
}
