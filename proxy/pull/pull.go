// Package pull decides what a client is given from a repository: with which
// credentials its upstream is asked, what comes from the cache, and what is
// served while the upstream is in trouble. It knows upstreams, the cache and
// tags; it knows no HTTP request.
//
// Files: pull.go (a Repository), identity.go (credentials and visibility),
// manifests.go, blobs.go and lists.go (what a repository serves), fetch.go (what is
// fetched without a client), import.go (what an operator brings), whole.go (which
// images could be pulled without the upstream), trouble.go (while the upstream fails),
// tags.go (tags for operators), near.go (other boxes, and the bucket behind them),
// sitewhole.go (images that boxes and bucket hold together), held.go (what is given to
// who asks for what is held alone), outage.go (what would be served if all upstreams
// failed).
package pull

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/memory"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
)

// Options is what a Puller needs; every field but Prefetch, Site, Tier and Patience is
// required.
type Options struct {
	Cache      *cache.Cache
	Tags       *freshness.Resolver
	Identities *access.Identities
	Grants     *access.Grants
	Links      *access.Links
	Prefetch   *prefetch.Prefetcher // nil for none
	Site       *site.Site           // nil for a box that knows no other
	Tier       *tier.Tier           // nil for none
	// Patience is the longest Retry-After of an upstream that still counts as
	// one that answers.
	Patience time.Duration
	// For how long held content is served while its upstream fails, from the
	// first check that failed; negative for any time. What a client's own token
	// gave access to is served as long as its grant lasts.
	StalePublic, StalePrivate time.Duration
	Now                       func() time.Time
}

// Puller gives access to repositories. Its methods may be called at any time
// from any goroutine.
type Puller struct {
	o       Options
	absent  *freshness.Failures              // blobs that were not found, by repository
	fetched *memory.Memory[string, struct{}] // repositories that an upstream gave a manifest of
	pulls   singleflight.Group               // in a site: of manifests by digest at registries, and questions whether the boxes hold an image
	atSite  *memory.Memory[string, bool]     // whether they do
}

// maxFetched is how many repositories are in Puller.fetched.
const maxFetched = 4096

// New returns a Puller.
func New(o Options) *Puller {
	return &Puller{o: o, absent: freshness.NewFailures(o.Now), fetched: memory.New[string, struct{}](maxFetched, nil), atSite: memory.New[string, bool](maxAtSite, o.Now)}
}

// Why a repository is refused.
var (
	ErrDenied = errors.New("the operator does not allow this repository")
	ErrHidden = errors.New("this repository is not shown at a port where nobody logs in")
	// ErrElsewhere refuses another box, which has to ask elsewhere: restricted
	// content does not cross between boxes.
	ErrElsewhere = errors.New("this box does not give it to another one")
)

// Repository is a repository of one upstream as one client sees it. Two are
// equal when they ask the same upstream with the same client's credentials.
type Repository struct {
	Upstream *upstream.Upstream
	Name     string // as the upstream knows it
	View     access.View
	Warm     bool // no client asks: histories of tags say so

	puller *Puller
	caller *upstream.Client // sends the client's own token; nil unless View is access.Own
	asker  access.TokenHash // the client's token in this repository
	proved bool             // this client may pull: the upstream has said so, or every client may
	peer   bool             // another box asks
	held   bool             // for what is held alone
}

// Identity is what is known of a client: the port it connected to and the token
// that it sent there.
type Identity struct {
	Login bool   // clients can log in at the port
	Token string // empty for none
	Peer  bool   // it is another box of the site, as it says
	Held  bool   // it asks for what is held alone: the error is ErrUnheld for the rest
}

// Repository returns a repository as a client sees it. The error is ErrDenied,
// ErrHidden or ErrElsewhere; the repository is valid in any case, for logs and metrics.
func (p *Puller) Repository(up *upstream.Upstream, name string, who Identity) (Repository, error) {
	r := Repository{Upstream: up, Name: name, View: access.ViewOf(up, name, who.Login), puller: p, proved: true, peer: who.Peer, held: who.Held}
	if r.peer && r.View.Restricted() {
		return r, ErrElsewhere
	}
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

// FullName returns the repository's name with its upstream's host.
func (r Repository) FullName() string { return r.Upstream.Host + "/" + r.Name }

// key identifies a digest in the repository.
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
		_, fetched := r.puller.fetched.Get(r.FullName())
		return named && fetched || r.has(f.Digest)
	case f.Tag != "":
		return r.puller.o.Tags.Knows(r.question(), f.Tag)
	default:
		_, held := r.puller.o.Cache.Manifest(f.Digest)
		return held
	}
}
