package freshness

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// Registry asks an upstream with one identity.
type Registry interface {
	HeadManifest(ctx context.Context, repository, reference string) (upstream.Descriptor, error)
	GetManifest(ctx context.Context, repository, reference string) (upstream.Manifest, error)
	Lister
	// Credentials reports whether the box's credentials are used.
	Credentials() bool
}

// Lister asks an upstream for lists.
type Lister interface {
	Tags(ctx context.Context, repository string) ([]string, error)
	Referrers(ctx context.Context, repository string, subject digest.Digest) ([]json.RawMessage, error)
}

// Repository is what a Resolver is asked about, and how its upstream is asked.
type Repository struct {
	Host string        // the registry, as it is configured
	Name string        // as the registry knows it
	TTL  time.Duration // how long a tag is served without asking, unless a rule matches
	// StaleFor is how long held content is served while the upstream fails,
	// counted from the first check that failed; negative for no limit.
	StaleFor time.Duration
	// Registry returns what the upstream is asked with. It is called only when
	// the upstream is asked, and may itself ask it for a proof.
	Registry   func(ctx context.Context) Registry
	Restricted *Restricted // nil for a public repository
	// Peer says that another box asks: what it asks for joins no request that may
	// wait for a box.
	Peer bool
	Warm bool // no client asks: histories say so
	// Elsewhere is asked while the upstream fails, for what is not held; nil for
	// nobody. It is believed then, and its word is not kept.
	Elsewhere Elsewhere
}

// Elsewhere knows what others hold of a repository: other boxes, which ask no upstream
// for it. Each answer comes with how long ago an upstream confirmed it.
type Elsewhere interface {
	Tag(ctx context.Context, tag string) (m upstream.Manifest, age time.Duration, err error)
	Tags(ctx context.Context) (tags []string, age time.Duration, err error)
	Referrers(ctx context.Context, subject digest.Digest) (all []json.RawMessage, age time.Duration, err error)
}

// Restricted is what is particular to a restricted repository. That the client
// may see the repository has been checked before.
type Restricted struct {
	Links Links
	// Client identifies the client whose token is used: answers are not shared
	// with other clients. Empty when they may be.
	Client string
}

// Links knows which manifests belong to which restricted repositories.
type Links interface {
	Linked(registry, repository string, d digest.Digest) bool
	Link(registry, repository string, d digest.Digest)
}

func (p Repository) name(kind index.Kind, name string) index.Name {
	return index.Name{Registry: p.Host, Repository: p.Name, Kind: kind, Name: name, Restricted: p.Restricted != nil}
}

func (p Repository) tag(tag string) index.Name { return p.name(index.KindTag, tag) }

// digest is the key of a digest in the repository.
func (p Repository) digest(d digest.Digest) string { return p.key() + "@" + d.String() }

// key is the key of the repository. A restricted one and a public one of the
// same name have different keys.
func (p Repository) key() string {
	key := p.Host + "/" + p.Name
	if p.Restricted != nil {
		key += " (restricted)"
	}
	return key
}

// question is the key of an upstream request: requests with the same key are
// coalesced.
func (p Repository) question(kind, key string) string {
	if p.Restricted != nil {
		kind += " " + p.Restricted.Client
	}
	if p.Peer {
		kind += " for a box"
	}
	return kind + " " + key
}
