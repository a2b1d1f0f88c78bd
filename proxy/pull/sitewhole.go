package pull

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/proxy/access"
)

// siteWithin is how long a client waits to learn whether boxes and bucket hold an image
// together.
const siteWithin = 1100 * time.Millisecond

// siteFor is how long it is remembered whether they do, of at most maxAtSite images.
const (
	siteFor   = 10 * time.Second
	maxAtSite = 1024
)

// maxAsked is how many manifests and blobs of one image other boxes are asked for.
const maxAsked = 256

// wholeAtSite reports whether the boxes of the site, and the bucket behind them, hold all
// of an image together, of which this one does not hold all: of an index, all of one of
// its images. The manifests that are not here are fetched from the boxes. Many clients
// ask at a time, and all are asked once for them, and then not for siteFor.
func (r Repository) wholeAtSite(ctx context.Context, d digest.Digest) bool {
	if !r.asksBoxes() && (r.puller.o.Tier == nil || r.View != access.Open) {
		return false
	}
	known, key := r.puller.atSite, r.key(d)
	if whole, ok := known.Get(key); ok {
		return whole
	}
	whole, _, _ := r.puller.pulls.Do("at site "+key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), siteWithin)
		defer cancel()
		whole := r.askWhole(ctx, d)
		known.Put(key, whole, siteFor)
		return whole, nil
	})
	return whole.(bool)
}

// askWhole asks the boxes for what this one lacks of an image.
func (r Repository) askWhole(ctx context.Context, d digest.Digest) bool {
	_, missing := r.puller.o.Cache.Images(d)
	r.fetchFromSite(ctx, missing)
	images, _ := r.puller.o.Cache.Images(d)
	for _, image := range images {
		if r.heldAtSite(ctx, image) {
			return true
		}
	}
	return false
}

// fetchFromSite stores manifests that other boxes hold.
func (r Repository) fetchFromSite(ctx context.Context, missing []content.Part) {
	var fetching sync.WaitGroup
	for _, p := range missing[:min(len(missing), maxAsked)] {
		fetching.Go(func() {
			m, err := r.puller.o.Site.HeldManifest(ctx, r.Upstream.Host, r.Name, p.Digest)
			if err == nil {
				r.puller.o.Cache.PutManifest(cache.Manifest{Digest: m.Digest, MediaType: m.MediaType, Body: m.Body, Parts: m.Parts}, func() {})
			}
		})
	}
	fetching.Wait()
}

// heldAtSite reports whether each part of an image is held here, at another box or in the
// bucket. All are asked at once.
func (r Repository) heldAtSite(ctx context.Context, image cache.Image) bool {
	lacking := slices.DeleteFunc(slices.Clone(image.Parts), func(p content.Part) bool { return !p.Is(content.RoleNeeded) || r.has(p.Digest) })
	if len(lacking) > maxAsked {
		return false
	}
	var asking sync.WaitGroup
	found := make([]atomic.Bool, len(lacking))
	for i, p := range lacking {
		asking.Go(func() {
			if _, has := r.puller.o.Tier.Size(ctx, p.Digest, p.Size); has {
				found[i].Store(true)
			}
		})
		if r.asksBoxes() {
			asking.Go(func() {
				if _, err := r.puller.o.Site.HeldSize(ctx, r.Upstream.Host, r.Name, p.Digest); err == nil {
					found[i].Store(true)
				}
			})
		}
	}
	asking.Wait()
	for i := range found {
		if !found[i].Load() {
			return false
		}
	}
	return true
}
