// Package pull decides what a client is given from a repository: on whose
// behalf its registry is asked, what comes from the cache, and what is answered
// while the registry is in trouble. It knows registries, the cache and tags; it
// knows no HTTP request.
//
// Files: pull.go (a Repository), identity.go (on whose behalf), manifests.go,
// blobs.go and lists.go (what can be had from it), trouble.go (while its
// registry fails).
package pull

import (
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/upstream"
)

// Options is what a Puller needs; every field but Prefetch and Patience is
// required.
type Options struct {
	Cache      *cache.Cache
	Tags       *freshness.Resolver
	Identities *access.Identities
	Grants     *access.Grants
	Links      *access.Links
	Prefetch   *prefetch.Prefetcher // nil for none
	// Patience is the longest that a registry may want to be left alone and
	// still count as one that answers.
	Patience time.Duration
	// For how long held content is served while its registry fails, from the
	// first check that failed; negative for any time. What a client's own
	// token opened is served as long as the token is believed.
	StalePublic, StalePrivate time.Duration
	Now                       func() time.Time
}

// Puller gives access to repositories. Its methods may be called at any time
// from any goroutine.
type Puller struct {
	o       Options
	absent  *freshness.Failures          // blobs that were not found, by repository
	fetched *lru.Cache[string, struct{}] // repositories that an upstream gave a manifest of
}

// maxFetched is how many repositories are in Puller.fetched.
const maxFetched = 4096

// New returns a Puller.
func New(o Options) *Puller {
	fetched, err := lru.New[string, struct{}](maxFetched)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &Puller{o: o, absent: freshness.NewFailures(o.Now), fetched: fetched}
}

// Why a repository is not to be seen.
var (
	ErrDenied = errors.New("the operator does not allow this repository")
	ErrHidden = errors.New("this repository is not shown at a port where nobody logs in")
)

// Repository is a repository of one registry as one client sees it. Two are
// equal when they ask the same registry for the same client.
type Repository struct {
	Upstream *upstream.Upstream
	Name     string // as the registry knows it
	View     access.View

	puller *Puller
	caller *upstream.Client // asks with the client's own token; nil but for access.Own
	asker  access.TokenHash // the client's token in this repository
	proved bool             // the registry lets this client pull, or anybody may
}

// Identity is what is known of a client: the port it came to and the token
// that it showed there.
type Identity struct {
	Login bool   // clients can log in at the port
	Token string // empty where it showed none
}

// Repository returns a repository as a client sees it. The error is ErrDenied
// or ErrHidden; the repository is valid in any case, for what is said of it.
func (p *Puller) Repository(up *upstream.Upstream, name string, who Identity) (Repository, error) {
	r := Repository{Upstream: up, Name: name, View: access.ViewOf(up, name, who.Login), puller: p, proved: true}
	switch r.View {
	case access.Denied:
		return r, ErrDenied
	case access.Hidden:
		return r, ErrHidden
	case access.Own:
		r.caller, r.asker = up.Relay.As(who.Token), p.o.Grants.Hash(who.Token, r.FullName())
		r.proved = p.o.Grants.Alive(r.asker)
	}
	return r, nil
}

// FullName is the repository's name with its registry.
func (r Repository) FullName() string { return r.Upstream.Host + "/" + r.Name }

// key is what something in the repository is remembered by.
func (r Repository) key(d digest.Digest) string { return r.FullName() + "@" + d.String() }

// Reference names a manifest or a blob.
type Reference struct {
	Tag    string // of a manifest; else Digest counts
	Digest digest.Digest
	Blob   bool
}

func (f Reference) name() string {
	if f.Tag != "" {
		return f.Tag
	}
	return f.Digest.String()
}

// Knows reports whether what is requested is held, or known to exist: a blob
// that a held manifest names, in a repository that has been seen to exist.
func (r Repository) Knows(f Reference) bool {
	switch {
	case f.Blob:
		_, named := r.puller.o.Cache.Named(f.Digest)
		return named && r.puller.fetched.Contains(r.FullName()) || r.has(f.Digest)
	case f.Tag != "":
		return r.puller.o.Tags.Knows(r.question(), f.Tag)
	default:
		_, held := r.puller.o.Cache.Manifest(f.Digest)
		return held
	}
}
