package access

import (
	"cmp"
	"context"
	"iter"
	"time"

	"golang.org/x/sync/singleflight"

	"hubcap/cache/index"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream"
)

// How long it is remembered that a repository is public, and that this could
// not be shown.
const (
	publicFor    = time.Hour
	notPublicFor = time.Minute
)

// repositoriesKept bounds for how many repositories that is remembered.
const repositoriesKept = 10_000

// Identities chooses between the box's credentials and an anonymous request.
// The credentials raise the rate limit of public content and give access to
// nothing else: they are used for a repository only after it is shown that an
// anonymous client can pull it. Its methods are safe for concurrent use.
type Identities struct {
	known  *memory.Memory[index.Origin, bool] // whether a repository is public
	flight singleflight.Group
}

// NewIdentities returns empty Identities. now is the clock.
func NewIdentities(now func() time.Time) *Identities {
	return &Identities{known: memory.New[index.Origin, bool](repositoriesKept, now)}
}

// Probe sends one small request to a repository with an anonymous client. An
// error means that the request was not granted.
type Probe func(ctx context.Context, anonymous *upstream.Client) error

// Client returns the client that asks the repository. For a repository that is
// not remembered it calls probe first; concurrent calls share one.
func (i *Identities) Client(ctx context.Context, u *upstream.Upstream, repository string, probe Probe) *upstream.Client {
	if own := u.OwnOf(repository); own != nil && i.public(ctx, u, repository, probe) {
		return own
	}
	return u.Anonymous
}

// Known is Client without a probe: a repository that is not remembered is asked
// anonymously.
func (i *Identities) Known(u *upstream.Upstream, repository string) *upstream.Client {
	if public, _ := i.known.Get(index.Origin{Registry: u.Host, Repository: repository}); public {
		return cmp.Or(u.OwnOf(repository), u.Anonymous)
	}
	return u.Anonymous
}

// Public iterates over the repositories that were shown to be public within
// publicFor, of upstreams with credentials: for others it is not asked.
func (i *Identities) Public() iter.Seq[index.Origin] {
	return func(yield func(index.Origin) bool) {
		for repository, public := range i.known.All() {
			if public && !yield(repository) {
				return
			}
		}
	}
}

func (i *Identities) public(ctx context.Context, u *upstream.Upstream, repository string, probe Probe) bool {
	key := index.Origin{Registry: u.Host, Repository: repository}
	if public, ok := i.known.Get(key); ok {
		return public
	}
	shown := i.flight.DoChan(u.Host+"/"+repository, func() (any, error) {
		if public, ok := i.known.Get(key); ok { // from a probe that has just ended
			return public, nil
		}
		err := probe(context.WithoutCancel(ctx), u.Anonymous)
		// When the anonymous pull limit is used up, the probe fails, and the
		// credentials are needed most. The token's access claim then counts.
		public, life := err == nil || u.Anonymous.Grants(repository), notPublicFor
		if public {
			life = publicFor
		}
		i.known.Put(key, public, life)
		return public, nil
	})
	select {
	case <-ctx.Done():
		return false
	case result := <-shown:
		public, _ := result.Val.(bool)
		return public
	}
}
