package pull

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Proved reports whether the client is known to be let in by the registry. What
// is held must not be given before.
func (r Repository) Proved() bool { return r.proved }

// Prove asks the registry, with the client's own token, whether the client may
// pull what it asks for.
func (r Repository) Prove(ctx context.Context, f Reference) (Repository, error) {
	if err := r.heard(r.probe(ctx, f, r.caller)); err != nil {
		return r, err
	}
	r.puller.o.Grants.Granted(r.asker)
	r.proved = true
	return r, nil
}

// Ping asks whether the registry lets the client in at all.
func (r Repository) Ping(ctx context.Context) error { return r.caller.Ping(ctx) }

// heard notes a refusal of the client's token, and returns err.
func (r Repository) heard(err error) error {
	var up *upstream.Error
	if r.View == access.Own && errors.As(err, &up) && up.Kind == upstream.Denied {
		r.puller.o.Grants.Refused(r.asker)
	}
	return err
}

// probe has the registry tell whether a client of it may pull what f names.
func (r Repository) probe(ctx context.Context, f Reference, client *upstream.Client) (err error) {
	if f.Blob {
		_, err = client.HeadBlob(ctx, r.Name, f.Digest)
	} else {
		_, err = client.HeadManifest(ctx, r.Name, f.name())
	}
	return err
}

// client asks the registry for what f names: with the box's credentials where
// the repository is shared, and else only where an anonymous client could have
// had the same.
func (r Repository) client(ctx context.Context, f Reference) *upstream.Client {
	switch r.View {
	case access.Own:
		return r.caller
	case access.Shared:
		return r.shared()
	default:
		return r.puller.o.Identities.Client(ctx, r.Upstream, r.Name, func(ctx context.Context, anybody *upstream.Client) error {
			return r.probe(ctx, f, anybody)
		})
	}
}

// lister asks the registry for a list, which proves nothing: a right to see
// what there is in a repository is none to pull it.
func (r Repository) lister() *upstream.Client {
	switch r.View {
	case access.Own:
		return r.caller
	case access.Shared:
		return r.shared()
	default:
		return r.puller.o.Identities.Known(r.Upstream, r.Name)
	}
}

func (r Repository) shared() *upstream.Client {
	if own := r.Upstream.OwnOf(r.Name); own != nil {
		return own
	}
	return r.Upstream.Anonymous // it is shared, and the credentials are for others
}

// witness asks the registry whether the client may have what is held for
// others. What becomes everybody's then has to be had by anybody: the box's
// credentials would see a repository that has been closed since it was last
// shown to be public.
func (r Repository) witness(ctx context.Context, f Reference) *upstream.Client {
	if r.View == access.Open {
		return r.Upstream.Anonymous
	}
	return r.client(ctx, f)
}

// questionOf is the repository as freshness asks about it, by a client.
func (r Repository) questionOf(client func(ctx context.Context) *upstream.Client) freshness.Repository {
	return freshness.Repository{
		Host: r.Upstream.Host, Name: r.Name, TTL: r.Upstream.TagTTL, StaleFor: r.staleFor(), Restricted: r.restricted(),
		Registry: func(ctx context.Context) freshness.Registry { return client(ctx) },
	}
}

// question is questionOf where nobody will be asked.
func (r Repository) question() freshness.Repository {
	return r.questionOf(func(context.Context) *upstream.Client { return r.lister() })
}

// staleFor is for how long held content is served while the registry fails.
func (r Repository) staleFor() time.Duration {
	switch r.View {
	case access.Own: // a grant that is alive lets in, and no other one does
		return -1
	case access.Shared:
		return r.puller.o.StalePrivate
	default:
		return r.puller.o.StalePublic
	}
}

// restricted is what freshness needs to know of a repository that is not for
// everybody; nil for one that is.
func (r Repository) restricted() *freshness.Restricted {
	if !r.View.Restricted() {
		return nil
	}
	p := &freshness.Restricted{Links: links{r.puller.o.Links, r.Upstream.Host, r.Name}}
	if r.View == access.Own {
		p.Client = hex.EncodeToString(r.asker[:])
	}
	return p
}

// links are those of one repository.
type links struct {
	all                  *access.Links
	registry, repository string
}

// Linked implements freshness.Links.
func (l links) Linked(d digest.Digest) bool { return l.all.Linked(l.registry, l.repository, d) }

// Link implements freshness.Links.
func (l links) Link(d digest.Digest) { l.all.Link(l.registry, l.repository, d) }

// linkTo notes that the repository has d.
func (r Repository) linkTo(d digest.Digest) {
	if r.View.Restricted() {
		r.puller.o.Links.Link(r.Upstream.Host, r.Name, d)
	}
}
