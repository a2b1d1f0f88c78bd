package access

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"hubcap/proxy/upstream"
)

// How long it is remembered that anybody may pull a repository, and that
// nobody could be shown to.
const (
	publicFor  = time.Hour
	unknownFor = time.Minute
)

// repositoriesKept bounds for how many repositories that is remembered.
const repositoriesKept = 10_000

// Identities chooses between the box's credentials and none. The credentials
// raise the rate limit of what anybody may pull; they open nothing: they are
// used for a repository only once it is shown that an anonymous client could
// have pulled it.
type Identities struct {
	known  *lru.Cache[string, verdict]
	flight singleflight.Group
	now    func() time.Time
}

type verdict struct {
	public bool
	until  time.Time
}

// NewIdentities remembers nothing yet. now is the clock.
func NewIdentities(now func() time.Time) *Identities {
	known, err := lru.New[string, verdict](repositoriesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &Identities{known: known, now: now}
}

// Probe asks one small thing of a repository as anybody, and fails when that
// is not granted.
type Probe func(ctx context.Context, anybody *upstream.Client) error

// Client is the client to ask the repository with. probe is called at most
// once an hour for a repository.
func (i *Identities) Client(ctx context.Context, u *upstream.Upstream, repository string, probe Probe) *upstream.Client {
	own := u.OwnOf(repository)
	if own == nil {
		return u.Anonymous
	}
	if i.public(ctx, u, repository, probe) {
		return own
	}
	return u.Anonymous
}

// Known is the client to ask the repository with for what proves nothing: with
// the box's credentials where it is shown already that they open nothing.
func (i *Identities) Known(u *upstream.Upstream, repository string) *upstream.Client {
	if v, ok := i.remembered(u.Host + "/" + repository); ok && v.public {
		if own := u.OwnOf(repository); own != nil {
			return own
		}
	}
	return u.Anonymous
}

func (i *Identities) public(ctx context.Context, u *upstream.Upstream, repository string, probe Probe) bool {
	key := u.Host + "/" + repository
	if v, ok := i.remembered(key); ok {
		return v.public
	}
	answer := i.flight.DoChan(key, func() (any, error) {
		if v, ok := i.remembered(key); ok { // from a flight that has just ended
			return v.public, nil
		}
		err := probe(context.WithoutCancel(ctx), u.Anonymous)
		// The token's own claim counts where the limit for anybody is used
		// up, which is when the credentials are wanted most.
		v := verdict{public: err == nil || u.Anonymous.Grants(repository)}
		v.until = i.now().Add(unknownFor)
		if v.public {
			v.until = i.now().Add(publicFor)
		}
		i.known.Add(key, v)
		return v.public, nil
	})
	select {
	case <-ctx.Done():
		return false
	case result := <-answer:
		public, _ := result.Val.(bool)
		return public
	}
}

func (i *Identities) remembered(key string) (verdict, bool) {
	v, ok := i.known.Get(key)
	return v, ok && i.now().Before(v.until)
}
