package pull

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// asksBoxes reports whether other boxes of the site are asked for what the repository
// has: of public content, and not for one of them.
func (r Repository) asksBoxes() bool {
	return r.puller.o.Site.HasBoxes() && r.View == access.Open && !r.peer
}

// near returns the places to ask for a blob, of size bytes as far as that is known,
// before its registry: the boxes of the site that have it, or fetch it, unless one of
// them asks; the bucket behind all boxes; sisters. Restricted content is at none.
func (r Repository) near(d digest.Digest, size int64) cache.Nearer {
	if r.View != access.Open {
		return nil
	}
	site := r.puller.o.Site
	var all inOrder
	if !r.peer {
		all = all.and(site.Blob(r.Upstream.Host, r.Name, d))
	}
	all = all.and(r.puller.o.Tier.Blob(d, size))
	all = all.and(site.Sisters(r.Upstream.Host, r.Name, d, size))
	if len(all) == 0 {
		return nil
	}
	return all
}

// sizeInTier returns the size of a public blob that the bucket has.
func (r Repository) sizeInTier(ctx context.Context, d digest.Digest) (size int64, ok bool) {
	if r.View != access.Open {
		return -1, false
	}
	named, _ := r.puller.o.Cache.Named(d)
	return r.puller.o.Tier.Size(ctx, d, named)
}

// inOrder is places after places.
type inOrder []cache.Nearer

// and appends places; nil is none.
func (all inOrder) and(next cache.Nearer) inOrder {
	if next == nil {
		return all
	}
	return append(all, next)
}

// Places implements cache.Nearer.
func (all inOrder) Places() (places []cache.Place) {
	for _, one := range all {
		places = append(places, one.Places()...)
	}
	return places
}

// Boxes implements cache.Nearer.
func (all inOrder) Boxes() bool { return slices.ContainsFunc(all, cache.Nearer.Boxes) }

// source returns the blob at the upstream, which is asked alike for whoever it is
// for.
func (r Repository) source(d digest.Digest) source {
	r.peer, r.Warm, r.held = false, false, false
	return source{r, d}
}

// openElsewhere opens a blob at a box that holds it, after its upstream has failed with
// err; else the error is err.
func (r Repository) openElsewhere(ctx context.Context, d digest.Digest, off, n int64, err error) (*cache.Stream, error) {
	if !r.failing(err) {
		return nil, err
	}
	stream, none := r.puller.o.Site.OpenHeld(ctx, r.Upstream.Host, r.Name, d, off, n)
	if none != nil {
		return nil, err
	}
	return stream, nil
}

// failing reports whether err says that the upstream fails, and other boxes are asked
// for what they hold of it.
func (r Repository) failing(err error) bool {
	e, ok := errors.AsType[*upstream.Error](err)
	return r.asksBoxes() && ok && (e.Failing() || r.puller.o.Tags.Refusing(r.Upstream.Host))
}

// registry returns what is asked for manifests: in a site the boxes before the
// upstream.
func (r Repository) registry(client *upstream.Client) freshness.Registry {
	if !r.puller.o.Site.HasBoxes() || r.View != access.Open {
		return client
	}
	return sited{client, r}
}

// sited asks the boxes of the site for a manifest before its upstream.
type sited struct {
	*upstream.Client
	repository Repository
}

// GetManifest implements freshness.Registry. A tag costs a HEAD, which is no pull,
// and its digest is fetched once for the whole site.
func (s sited) GetManifest(ctx context.Context, repository, reference string) (upstream.Manifest, error) {
	d, err := digest.Parse(reference)
	if err != nil {
		named, err := s.Client.HeadManifest(ctx, repository, reference)
		if err != nil || named.Digest == "" {
			return s.Client.GetManifest(ctx, repository, reference)
		}
		d = named.Digest
	}
	if s.repository.asksBoxes() {
		m, err := s.repository.puller.o.Site.Manifest(ctx, s.repository.Upstream.Host, repository, d)
		if err == nil || ctx.Err() != nil {
			return m, err
		}
	}
	m, err := s.pull(ctx, repository, d)
	if err != nil && s.repository.failing(err) {
		if held, none := s.repository.puller.o.Site.HeldManifest(ctx, s.repository.Upstream.Host, repository, d); none == nil {
			return held, nil
		}
	}
	return m, err
}

// HeadManifest implements freshness.Registry. What a digest names is asked of the boxes
// while the upstream fails.
func (s sited) HeadManifest(ctx context.Context, repository, reference string) (upstream.Descriptor, error) {
	named, err := s.Client.HeadManifest(ctx, repository, reference)
	if err == nil || !s.repository.failing(err) {
		return named, err
	}
	d, tag := digest.Parse(reference)
	if tag != nil {
		return named, err
	}
	held, none := s.repository.puller.o.Site.HeldManifest(ctx, s.repository.Upstream.Host, repository, d)
	if none != nil {
		return named, err
	}
	return held.Descriptor, nil
}

// pull fetches a manifest from the upstream, once for all that ask for it at a time:
// what a box asks for joins no request of this box's clients, but this one, which
// waits for the upstream alone.
func (s sited) pull(ctx context.Context, repository string, d digest.Digest) (upstream.Manifest, error) {
	p := s.repository.puller
	done := p.pulls.DoChan(s.repository.key(d), func() (any, error) {
		if m, held := p.o.Cache.Manifest(d); held && !m.Restricted {
			return upstream.ManifestOf(d, m.MediaType, m.Body)
		}
		m, err := s.Client.GetManifest(context.WithoutCancel(ctx), repository, d.String())
		if err == nil { // the next one to come finds it
			p.o.Cache.PutManifest(cache.Manifest{Digest: d, MediaType: m.MediaType, Body: m.Body, Parts: m.Parts}, func() {})
		}
		return m, err
	})
	select {
	case <-ctx.Done():
		return upstream.Manifest{}, context.Cause(ctx)
	case got := <-done:
		m, _ := got.Val.(upstream.Manifest)
		return m, got.Err
	}
}

// elsewhere is what the other boxes know of a repository, for while its upstream fails.
type elsewhere struct{ Repository }

// elsewhere returns nil where no other box is asked.
func (r Repository) elsewhere() freshness.Elsewhere {
	if !r.asksBoxes() {
		return nil
	}
	return elsewhere{r}
}

// Tag implements freshness.Elsewhere.
func (e elsewhere) Tag(ctx context.Context, tag string) (upstream.Manifest, time.Duration, error) {
	found, err := e.puller.o.Site.HeldTag(ctx, e.Upstream.Host, e.Name, tag)
	return found.Manifest, found.Age, err
}

// Tags implements freshness.Elsewhere.
func (e elsewhere) Tags(ctx context.Context) ([]string, time.Duration, error) {
	return e.puller.o.Site.HeldTags(ctx, e.Upstream.Host, e.Name)
}

// Referrers implements freshness.Elsewhere.
func (e elsewhere) Referrers(ctx context.Context, subject digest.Digest) ([]json.RawMessage, time.Duration, error) {
	return e.puller.o.Site.HeldReferrers(ctx, e.Upstream.Host, e.Name, subject)
}
