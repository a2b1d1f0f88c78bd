package bundle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// Order says what is exported.
type Order struct {
	Refs []reference.Reference
	// Platforms are as for warm.Request; AllPlatforms takes the attestations too.
	Platforms []string
	NotIn     []digest.Digest // what the other box holds: left out
	Shared    bool            // also what the box's own credentials have pulled
}

// Exported is an image of a bundle.
type Exported struct {
	Ref       string        `json:"ref"`
	Digest    digest.Digest `json:"digest"`
	Platforms []string      `json:"platforms,omitempty"` // of an index
	Absent    []string      `json:"absent,omitempty"`    // wanted, and not in the index
}

// Plan is a bundle that is held whole and can be written.
type Plan struct {
	Images  []Exported `json:"images"`
	Objects int        `json:"objects"` // manifests and blobs that are in it
	Bytes   int64      `json:"bytes"`   // of the tar

	bundler   *Bundler
	index     []byte
	manifests []file
	blobs     []file
}

// file is a manifest or blob of a bundle.
type file struct {
	digest digest.Digest
	size   int64
	from   pull.Repository
}

func (f file) name() string {
	return ocispec.ImageBlobsDir + "/" + f.digest.Algorithm().String() + "/" + f.digest.Encoded()
}

// Estimate returns what Plan would have to fetch first.
func (b *Bundler) Estimate(ctx context.Context, o Order) (warm.Estimate, error) {
	if _, err := b.repositories(o); err != nil {
		return warm.Estimate{}, err
	}
	return b.o.Warm.Estimate(ctx, o.Refs, o.request())
}

func (o Order) request() warm.Request {
	return warm.Request{Platforms: o.Platforms, Attestations: true}
}

// Plan fetches what is missing of the images and returns the bundle of them. The
// error is ErrShared, ErrTooMany or one of warm.Warmer.Image.
func (b *Bundler) Plan(ctx context.Context, o Order) (*Plan, error) {
	repositories, err := b.repositories(o)
	if err != nil {
		return nil, err
	}
	g := &gathering{bundler: b, seen: make(map[digest.Digest]bool), listed: make(map[string]bool)}
	for _, d := range o.NotIn {
		g.seen[d] = true
	}
	for i, ref := range o.Refs {
		found, manifests, blobs, err := b.o.Warm.Objects(ctx, ref, o.request())
		if err == nil {
			err = g.image(repositories[i], ref, found, slices.Contains(o.Platforms, warm.AllPlatforms))
		}
		if err == nil {
			err = g.files(repositories[i], manifests, blobs)
		}
		if err != nil {
			return nil, err
		}
	}
	return g.plan()
}

// repositories returns the repository of each reference.
func (b *Bundler) repositories(o Order) (all []pull.Repository, err error) {
	if len(o.Refs) == 0 {
		return nil, warm.ErrNothing
	}
	if len(o.Refs) > maxImages {
		return nil, ErrTooMany
	}
	for _, ref := range o.Refs {
		r, err := b.o.Warm.Repository(ref)
		if err == nil && r.View.Restricted() && !o.Shared {
			err = fmt.Errorf("%s: %w", ref, ErrShared)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// gathering finds the files of a bundle.
type gathering struct {
	bundler   *Bundler
	seen      map[digest.Digest]bool // in the bundle, or left out
	listed    map[string]bool        // the names in index.json
	entries   []ocispec.Descriptor
	images    []Exported
	manifests []file
	blobs     []file
}

// image adds an image that is held.
func (g *gathering) image(from pull.Repository, ref reference.Reference, found warm.Result, all bool) error {
	top, held := g.bundler.o.Cache.Manifest(found.Digest)
	if !held {
		return fmt.Errorf("%s: %w", ref, ErrNotStable)
	}
	if ref.Tag != "" { // a name with both is a tag that stands for the digest
		ref.Digest = ""
	}
	if g.listed[ref.String()] {
		return nil
	}
	g.listed[ref.String()] = true
	one := Exported{Ref: ref.String(), Digest: found.Digest, Absent: found.Absent}
	entry := ocispec.Descriptor{
		MediaType: top.MediaType, Digest: found.Digest, Size: int64(len(top.Body)),
		Annotations: map[string]string{ocispec.AnnotationRefName: one.Ref, nameAnnotation: one.Ref},
	}
	if len(found.Platforms) > 0 {
		one.Platforms = slices.Sorted(slices.Values(found.Platforms))
		if all {
			one.Platforms = []string{warm.AllPlatforms}
		}
		entry.Annotations[platformsAnnotation] = strings.Join(one.Platforms, ",")
	}
	if from.View.Restricted() {
		entry.Annotations[sharedAnnotation] = "true"
	}
	g.entries, g.images = append(g.entries, entry), append(g.images, one)
	return nil
}

// files adds what an image consists of. Blobs that no client needs are in the bundle if
// they are held.
func (g *gathering) files(from pull.Repository, manifests []digest.Digest, blobs []content.Part) error {
	for _, d := range manifests {
		one, held := g.bundler.o.Cache.Manifest(d)
		if !held {
			return fmt.Errorf("%s: %w", d, ErrNotStable)
		}
		g.add(&g.manifests, file{d, int64(len(one.Body)), from})
	}
	for _, p := range blobs {
		size, held := g.bundler.o.Cache.Size(p.Digest)
		switch {
		case held && from.Has(p.Digest):
			g.add(&g.blobs, file{p.Digest, size, from})
		case p.Is(content.RoleNeeded) && !g.seen[p.Digest]:
			return fmt.Errorf("%s: %w", p.Digest, ErrNotStable)
		}
	}
	return nil
}

func (g *gathering) add(to *[]file, f file) {
	if !g.seen[f.digest] {
		g.seen[f.digest] = true
		*to = append(*to, f)
	}
}

// plan puts everything into the one order.
func (g *gathering) plan() (*Plan, error) {
	if len(g.manifests)+len(g.blobs) > maxFiles {
		return nil, ErrTooMany
	}
	slices.SortFunc(g.entries, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Annotations[nameAnnotation], b.Annotations[nameAnnotation])
	})
	slices.SortFunc(g.manifests, func(a, b file) int { return strings.Compare(string(a.digest), string(b.digest)) })
	slices.SortFunc(g.blobs, func(a, b file) int {
		return cmp.Or(cmp.Compare(a.size, b.size), strings.Compare(string(a.digest), string(b.digest)))
	})
	p := &Plan{
		Images: g.images, Objects: len(g.manifests) + len(g.blobs),
		bundler: g.bundler, index: indexOf(g.entries), manifests: g.manifests, blobs: g.blobs,
	}
	p.Bytes = p.size()
	return p, nil
}
