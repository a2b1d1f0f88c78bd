package warm

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
)

// The bounds of what one reference is followed to: indexes in indexes, and
// manifests, as many as the cache visits from one index.
const (
	maxDepth     = 8
	maxManifests = 4096
)

// tree finds out what the image consists of, and fetches the manifests that are
// missing.
func (f *fetch) tree(ctx context.Context) error {
	top, body, err := f.top(ctx)
	f.result.Digest = top
	if err != nil || body == nil {
		return err
	}
	m, err := content.Parse(body)
	if err != nil || m.Kind == content.Schema1 || m.Kind == content.Other && m.Subject == "" {
		return fmt.Errorf("%s: %w", f.ref, ErrNoImage)
	}
	if m.Kind == content.Index && !f.all && len(f.wanted) == 0 {
		f.wanted = f.platformsInUse(top)
	}
	if err := f.add(ctx, m, maxDepth); err != nil {
		return err
	}
	return f.compare(m)
}

// compare returns an error if the index m has none of the wanted platforms, and
// notes which of them it has not.
func (f *fetch) compare(m content.Manifest) error {
	if m.Kind != content.Index || f.all {
		return nil
	}
	for _, p := range f.wanted {
		if !slices.Contains(f.result.Platforms, p) {
			f.result.Absent = append(f.result.Absent, p)
		}
	}
	if len(f.manifests) > 1 || f.result.Unknown || len(m.Manifests) == 0 {
		return nil
	}
	var has []string
	for _, d := range m.Manifests {
		if p := platformOf(d); p != "" && p != unknownPlatform {
			has = append(has, p)
		}
	}
	return fmt.Errorf("%s: %w: %v are wanted, and it has %v", f.ref, ErrNoPlatform, f.wanted, has)
}

// top resolves the reference. The body is nil if only its digest is known, in a dry
// run.
func (f *fetch) top(ctx context.Context) (d digest.Digest, body []byte, err error) {
	if f.ref.Digest != "" {
		body, err = f.manifest(ctx, f.ref.Digest, -1)
		return f.ref.Digest, body, err
	}
	if err := f.repository.HasPulls(f.req.KeepPulls); err != nil {
		return "", nil, &Error{Ref: f.ref, Part: "manifest", Err: err}
	}
	found, err := f.repository.Resolve(ctx, pull.Reference{Tag: f.ref.Tag}, f.req.DryRun)
	if err != nil {
		return "", nil, &Error{Ref: f.ref, Part: "manifest", Err: err}
	}
	if found.Body == nil && f.repository.HasManifest(found.Digest) {
		body, err = f.manifest(ctx, found.Digest, found.Size)
		return found.Digest, body, err
	}
	f.seen[found.Digest] = true
	f.addManifest(found.Digest, found.Size, found)
	return found.Digest, found.Body, nil
}

// manifest returns a manifest by digest; nil if it is not held, in a dry run.
func (f *fetch) manifest(ctx context.Context, d digest.Digest, size int64) ([]byte, error) {
	f.seen[d] = true
	found := freshness.Answer{State: freshness.HeadOnly}
	held := f.repository.HasManifest(d)
	if held || !f.req.DryRun {
		var err error
		if !held {
			err = f.repository.HasPulls(f.req.KeepPulls)
		}
		if err == nil {
			found, err = f.repository.Resolve(ctx, pull.Reference{Digest: d}, false)
		}
		if err != nil {
			return nil, &Error{Ref: f.ref, Part: "manifest", Digest: d, Err: err}
		}
		size = found.Size
	}
	f.addManifest(d, size, found)
	return found.Body, nil
}

// addManifest counts a manifest. One without a body is what a dry run would fetch.
func (f *fetch) addManifest(d digest.Digest, size int64, found freshness.Answer) {
	f.manifests = append(f.manifests, d)
	missing := found.Body == nil || found.State == freshness.Fetched
	f.update(func() {
		f.result.Objects++
		f.progress.ObjectsTotal++
		f.progress.BytesTotal += max(size, 0)
		f.count(size, !missing)
		if missing {
			f.result.Pulls++
		}
		if found.Body == nil {
			f.result.Unknown = true
		}
	})
}

// add adds what a manifest names: the blobs of an image, or the chosen children of
// an index.
func (f *fetch) add(ctx context.Context, m content.Manifest, depth int) error {
	if m.Kind != content.Index {
		f.addParts(m.Parts())
		return nil
	}
	children := choose(m.Manifests, f.wanted, f.all)
	if f.all && f.req.Attestations {
		children = m.Manifests
	}
	for _, child := range children {
		if f.seen[child.Digest] || depth == 0 || len(f.manifests) == maxManifests {
			continue
		}
		if p := platformOf(child); p != "" && !slices.Contains(f.result.Platforms, p) {
			f.result.Platforms = append(f.result.Platforms, p)
		}
		body, err := f.manifest(ctx, child.Digest, child.Size)
		if err != nil {
			return err
		}
		below, err := content.Parse(body)
		if err != nil { // not held, or what no client can read either
			continue
		}
		if err := f.add(ctx, below, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// addParts adds the blobs of an image.
func (f *fetch) addParts(parts []content.Part) {
	f.update(func() {
		for _, p := range parts {
			if f.seen[p.Digest] {
				continue
			}
			f.seen[p.Digest] = true
			f.result.Objects++
			f.progress.ObjectsTotal++
			f.progress.BytesTotal += max(p.Size, 0)
			if p.Is(content.RoleForeign) && !f.repository.Has(p.Digest) {
				f.skip(p, "its registry need not have it: the manifest names another place")
				continue
			}
			f.parts = append(f.parts, p)
		}
	})
}

// platformsInUse returns the platforms of an index of which a layer is held, or else
// those of another index that the tag names or named, or else the default.
func (f *fetch) platformsInUse(top digest.Digest) []string {
	candidates := []digest.Digest{top}
	if f.ref.Tag != "" {
		candidates = append(candidates, f.repository.Served(f.ref.Tag)...)
	}
	for _, d := range candidates {
		if held := f.platformsHeld(d); len(held) > 0 {
			return held
		}
	}
	return []string{DefaultPlatform()}
}

// platformsHeld returns the platforms of the index d that are in use here.
func (f *fetch) platformsHeld(d digest.Digest) (all []string) {
	one, held := f.w.o.Cache.Manifest(d)
	m, err := content.Parse(one.Body)
	if !held || err != nil {
		return nil
	}
	return InUse(m.Manifests, f.w.o.Cache.Parts, f.repository.Has)
}
