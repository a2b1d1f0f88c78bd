package bundle

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
	"hubcap/proxy/pull"
	"hubcap/proxy/upstream"
	"hubcap/proxy/warm"
)

// tree is an image of a bundle, with what is held of it already.
type tree struct {
	in        *intake
	from      pull.Repository
	top       digest.Digest
	platforms []string // of an index; empty for those that came

	seen      map[digest.Digest]bool
	manifests []manifest // each after those that it names
	blobs     []digest.Digest
	lacks     int
	missing   []Missing // the first of them
	plain     bool      // it has a layer that is not compressed
}

type manifest struct {
	upstream.Descriptor
	body []byte
}

// treeOf returns the tree of an entry of index.json.
func (i *intake) treeOf(from pull.Repository, entry ocispec.Descriptor) *tree {
	t := &tree{in: i, from: from, top: entry.Digest, seen: make(map[digest.Digest]bool)}
	if all := entry.Annotations[platformsAnnotation]; all != "" {
		t.platforms = strings.Split(all, ",")
	}
	t.add(entry.Digest, entry.Size, entry.MediaType, 0)
	return t
}

// has reports whether the bundle has d, and it is stored or, in a dry run, right.
func (i *intake) has(d digest.Digest) bool {
	why, came := i.came[d]
	if !came || why != "" {
		return false
	}
	_, stored := i.cache.Size(d)
	return stored || i.order.DryRun || i.bodies[d] != nil
}

// lack notes what is neither in the bundle nor held.
func (t *tree) lack(d digest.Digest, size int64, why string) {
	t.lacks++
	if reason, came := t.in.came[d]; reason != "" {
		why = reason
	} else if came && why == notThere {
		why = "there is no room for it: it was evicted for later files of the bundle"
	}
	if len(t.missing) < maxMissing {
		t.missing = append(t.missing, Missing{d, size, why})
	}
}

const notThere = "it is neither in the bundle nor held here"

// body returns a manifest that came, or that is held and shown in the repository.
func (t *tree) body(d digest.Digest) []byte {
	came := t.in.has(d)
	if body := t.in.bodies[d]; came && body != nil {
		return body
	}
	if !came && !t.from.HasManifest(d) {
		return nil
	}
	one, _ := t.in.cache.Manifest(d)
	return one.Body
}

// add adds a manifest and what it names.
func (t *tree) add(d digest.Digest, size int64, mediaType string, depth int) {
	if t.seen[d] {
		return
	}
	t.seen[d] = true
	body := t.body(d)
	if body == nil {
		t.lack(d, size, notThere)
		return
	}
	m, err := content.Parse(body)
	if err != nil || m.Kind == content.Schema1 || m.Kind == content.Other || depth > maxDepth || len(t.seen) > maxFiles {
		t.lack(d, size, "it is neither an image nor an index of images")
		return
	}
	if m.Kind == content.Index {
		t.children(d, m, depth)
	} else {
		t.parts(m)
	}
	if m.Named != "" {
		mediaType = m.Named
	}
	t.manifests = append(t.manifests, manifest{upstream.Descriptor{Digest: d, MediaType: mediaType, Size: int64(len(body))}, body})
}

// children adds the images of an index: those of the platforms that the bundle says
// that it has, or else those that came. An index of a bundle need not have the others.
func (t *tree) children(d digest.Digest, m content.Manifest, depth int) {
	chosen := m.Manifests
	switch {
	case len(t.platforms) == 0:
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(child content.Descriptor) bool {
			_, came := t.in.came[child.Digest]
			return !came
		})
	case !slices.Contains(t.platforms, warm.AllPlatforms):
		chosen = warm.Choose(chosen, t.platforms)
	}
	if len(chosen) == 0 && len(m.Manifests) > 0 {
		t.lack(d, -1, "the bundle has none of its images")
	}
	for _, child := range chosen {
		t.add(child.Digest, child.Size, child.MediaType, depth+1)
	}
}

// parts adds the blobs of an image. Those that no client needs may be missing.
func (t *tree) parts(m content.Manifest) {
	for _, layer := range m.Layers {
		t.plain = t.plain || strings.HasSuffix(layer.MediaType, ".tar")
	}
	for _, p := range m.Parts() {
		switch {
		case t.seen[p.Digest]:
		case t.in.has(p.Digest):
			t.blobs = append(t.blobs, p.Digest)
		case !t.from.Has(p.Digest) && p.Is(content.RoleNeeded):
			t.lack(p.Digest, p.Size, notThere)
		}
		t.seen[p.Digest] = true
	}
}
