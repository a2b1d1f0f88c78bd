package pull

import (
	"cmp"
	"context"
	"encoding/hex"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Proved reports whether the upstream is known to let the client pull. Held
// content must not be served before that.
func (r Repository) Proved() bool { return r.proved }

// Prove asks the upstream, with the client's own token, whether the client may
// pull what it requests.
func (r Repository) Prove(ctx context.Context, f Reference) (Repository, error) {
	if err := r.heard(r.probe(ctx, f, r.caller)); err != nil {
		return r, err
	}
	r.puller.o.Grants.Granted(r.asker)
	r.proved = true
	return r, nil
}

// heard notes when err is a refusal of the client's token, and returns err.
func (r Repository) heard(err error) error {
	if r.View == access.Own && upstream.IsKind(err, upstream.Denied) {
		r.puller.o.Grants.Refused(r.asker)
	}
	return err
}

// probe asks the upstream whether the client may pull what f names.
func (r Repository) probe(ctx context.Context, f Reference, client *upstream.Client) (err error) {
	if f.Blob {
		_, err = client.HeadBlob(ctx, r.Name, f.Digest)
	} else {
		_, err = client.HeadManifest(ctx, r.Name, f.name())
	}
	return err
}

// client returns what asks the upstream for what f names: with the box's
// credentials where the repository is shared, otherwise only where an anonymous
// client could have pulled the same.
func (r Repository) client(ctx context.Context, f Reference) *upstream.Client {
	if r.View != access.Open {
		return r.lister()
	}
	return r.puller.o.Identities.Client(ctx, r.Upstream, r.Name, func(ctx context.Context, anonymous *upstream.Client) error {
		return r.probe(ctx, f, anonymous)
	})
}

// lister returns what asks the upstream for a list. A list proves nothing: the
// right to list a repository is not the right to pull from it.
func (r Repository) lister() *upstream.Client {
	switch r.View {
	case access.Own:
		return r.caller
	case access.Shared:
		return cmp.Or(r.Upstream.OwnOf(r.Name), r.Upstream.Anonymous) // the credentials may be for other repositories
	default:
		return r.puller.o.Identities.Known(r.Upstream, r.Name)
	}
}

// prover returns what asks the upstream whether the client may see restricted
// content that is held. In a public repository only an anonymous request proves
// that, since the content becomes public with it: the box's credentials may still
// see a repository that has been made private.
func (r Repository) prover(ctx context.Context, f Reference) *upstream.Client {
	if r.View == access.Open {
		return r.Upstream.Anonymous
	}
	return r.client(ctx, f)
}

// questionOf returns the repository as freshness needs it; client returns what
// asks the upstream.
func (r Repository) questionOf(client func(ctx context.Context) *upstream.Client) freshness.Repository {
	return freshness.Repository{
		Host: r.Upstream.Host, Name: r.Name, TTL: r.Upstream.TagTTL, StaleFor: r.staleFor(), Restricted: r.restricted(), Warm: r.Warm, Peer: r.peer,
		Registry:  func(ctx context.Context) freshness.Registry { return r.registry(client(ctx)) },
		Elsewhere: r.elsewhere(),
	}
}

// question is questionOf where no upstream will be asked for a manifest.
func (r Repository) question() freshness.Repository {
	return r.questionOf(func(context.Context) *upstream.Client { return r.lister() })
}

// staleFor is for how long held content is served while the upstream fails;
// negative for any time.
func (r Repository) staleFor() time.Duration {
	switch r.View {
	case access.Own: // as long as the grant lasts, without which nothing is served
		return -1
	case access.Shared:
		return r.puller.o.StalePrivate
	default:
		return r.puller.o.StalePublic
	}
}

// restricted is what freshness needs to know of a restricted repository; nil for a
// public one.
func (r Repository) restricted() *freshness.Restricted {
	if !r.View.Restricted() {
		return nil
	}
	p := &freshness.Restricted{Links: r.puller.o.Links}
	if r.View == access.Own {
		p.Client = hex.EncodeToString(r.asker[:])
	}
	return p
}

// linkTo notes that the repository has d.
func (r Repository) linkTo(d digest.Digest) {
	if r.View.Restricted() {
		r.puller.o.Links.Link(r.Upstream.Host, r.Name, d)
	}
}
