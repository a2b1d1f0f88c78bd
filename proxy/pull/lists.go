package pull

import (
	"context"
	"errors"
	"net/url"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// ErrNotKept says that a list has to be fetched by Pass: it is too long to be
// stored, or the client is not known to be allowed to pull.
var ErrNotKept = errors.New("the list is not stored")

// Tags returns all tags of the repository: a JSON array, in the order of their
// bytes. The error may be ErrNotKept.
func (r Repository) Tags(ctx context.Context) (freshness.Answer, error) {
	if r.held {
		return r.orUnheld(r.puller.o.Tags.HeldTags(r.question()))
	}
	if !r.proved {
		return freshness.Answer{}, ErrNotKept
	}
	return r.listed(r.puller.o.Tags.Tags(ctx, r.question()))
}

// Referrers returns the freshness.Index of the manifests that refer to subject,
// as JSON. The error may be ErrNotKept.
func (r Repository) Referrers(ctx context.Context, subject digest.Digest) (freshness.Answer, error) {
	if r.held {
		return r.orUnheld(r.puller.o.Tags.HeldReferrers(r.question(), subject))
	}
	if !r.proved {
		return freshness.Answer{}, ErrNotKept
	}
	return r.listed(r.puller.o.Tags.Referrers(ctx, r.question(), subject))
}

func (r Repository) listed(found freshness.Answer, err error) (freshness.Answer, error) {
	if errors.Is(err, upstream.ErrTooLong) {
		err = ErrNotKept
	}
	return found, r.heard(err)
}

// KnowsTags reports whether a list of the repository's tags is known, even a
// stale one.
func (r Repository) KnowsTags() bool { return r.proved && r.puller.o.Tags.KnowsTags(r.question()) }

// KnowsReferrers is KnowsTags for the manifests that refer to subject.
func (r Repository) KnowsReferrers(subject digest.Digest) bool {
	return r.proved && r.puller.o.Tags.KnowsReferrers(r.question(), subject)
}

// Pass fetches a page of a list, "tags/list" or "referrers/<digest>", for this
// client alone.
func (r Repository) Pass(ctx context.Context, what string, query url.Values) (upstream.Answer, error) {
	page, err := r.lister().Get(ctx, r.Name, what, query)
	return page, r.heard(err)
}
