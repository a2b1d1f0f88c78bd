package pull

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Resolve returns what a tag or digest names, as Manifest does for a client, but
// nothing else while the upstream is in trouble, and without counting as a pull.
func (r Repository) Resolve(ctx context.Context, f Reference, describe bool) (freshness.Answer, error) {
	found, err := r.find(ctx, f, describe)
	return found, r.heard(err)
}

// Obtain stores a blob of the repository that no client has requested, behind
// those that clients have. size is what the manifest says, negative for unknown.
// fetched is how many bytes came from the upstream for it, 0 if it was held.
func (r Repository) Obtain(ctx context.Context, d digest.Digest, size int64) (fetched int64, err error) {
	want := r.want(d, size)
	fetched, err = r.puller.o.Cache.Obtain(ctx, want)
	if errors.Is(err, cache.ErrRestricted) {
		fetched, err = r.obtainRestricted(ctx, want)
	}
	return fetched, r.heard(err)
}

// obtainRestricted is Obtain for a blob that is held and that the repository has not
// shown to have: the upstream is asked, and read where its word is not enough.
func (r Repository) obtainRestricted(ctx context.Context, want cache.Want) (fetched int64, err error) {
	b, err := r.open(ctx, want)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	if !b.past {
		return 0, nil
	}
	if err := b.Send(ctx, discard{io.Discard}, 0, -1); err != nil {
		return 0, err
	}
	return b.Size, nil
}

// discard is a Sink that keeps nothing.
type discard struct{ io.Writer }

// FlushError implements cache.Sink.
func (discard) FlushError() error { return nil }

// Has reports whether the blob is held, or being filled, and a client of the
// repository may see it. Nothing is asked.
func (r Repository) Has(d digest.Digest) bool { return r.has(d) }

// HasManifest is Has for a manifest, which may be in memory alone for a moment.
func (r Repository) HasManifest(d digest.Digest) bool {
	m, held := r.puller.o.Cache.Manifest(d)
	shown := !m.Restricted || r.View.Restricted() && r.puller.o.Links.Linked(r.Upstream.Host, r.Name, d) && r.puller.o.Cache.CameFrom(d, r.Upstream.Host)
	return held && shown
}

// Known returns what the tag was last known to name. Nothing is asked.
func (r Repository) Known(tag string) (d digest.Digest, ok bool) {
	return r.puller.o.Tags.Current(r.question(), tag)
}

// Served returns the digests that clients are given by a tag, or were before, and
// that are held, the latest first.
func (r Repository) Served(tag string) (all []digest.Digest) {
	lines, _, _ := r.History(tag) // none of an unknown tag
	for _, one := range lines {
		if one.Served && r.HasManifest(one.Digest) {
			all = append(all, one.Digest)
		}
	}
	return all
}

// Limit returns the pull limit of the identity that the repository is asked with.
func (r Repository) Limit() upstream.LimitStatus {
	return r.lister().Status().Identities[0].Limit
}

// HasPulls returns an error if a manifest that is not held would take one of the
// pulls that are kept: keep is the share of the limit of which nothing is used,
// from 0 to 1. While no limit is known there is no error.
func (r Repository) HasPulls(keep float64) error {
	l := r.Limit()
	if keep <= 0 || l.Limit <= 0 || l.Remaining < 0 || float64(l.Remaining) > keep*float64(l.Limit) {
		return nil
	}
	return fmt.Errorf("%w: %d of %d are left at %s", ErrPullsKept, l.Remaining, l.Limit, r.Upstream.Host)
}

// ErrPullsKept says that the rest of the pull limit is kept for clients.
var ErrPullsKept = errors.New("the pulls that are left are kept for clients")
