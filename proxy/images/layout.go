package images

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
)

// layout is what an image consists of while it is being pulled. A platform has a
// key: what an index calls it, linux/arm64/v8; the digest of its manifest where
// the index does not say, or has said it of an earlier one; empty for an image
// that is no index.
type layout struct {
	children map[digest.Digest]string   // the key of each manifest of an index
	layers   map[digest.Digest][]string // the keys of the platforms that a client wants which asks for a layer
	// incomplete says that some of the manifests are not held, so that their layers
	// are not known.
	incomplete bool
}

// layoutOf returns the layout of an image.
func (m *Images) layoutOf(one *image) *layout {
	if l := one.layout.Load(); l != nil {
		return l
	}
	l := &layout{}
	if d := one.named.Load(); d != nil {
		l = newLayout(m.manifests(*d))
	}
	one.layout.Store(l)
	return l
}

// manifest is a manifest that a platform stands for.
type manifest struct {
	key string
	cache.Image
	held bool
}

// manifests returns those that can be reached from the manifest d and are no
// index, with their keys. Of those that are not held the parts are missing; an
// index that is not held is one of them.
func (m *Images) manifests(d digest.Digest) []manifest {
	images, missing := m.o.Cache.Images(d)
	all := make([]manifest, 0, len(images)+len(missing))
	for _, i := range images {
		all = append(all, manifest{i.Platform, i, true})
	}
	for _, p := range missing {
		all = append(all, manifest{p.Platform, cache.Image{Digest: p.Digest, Size: p.Size, Platform: p.Platform}, false})
	}
	for i := range all {
		one := &all[i]
		switch {
		case one.Digest == d:
			one.key = ""
		case one.key == "" || slices.ContainsFunc(all[:i], func(before manifest) bool { return before.key == one.key }):
			one.key = one.Digest.String()
		}
	}
	return all
}

func isIndex(parts []content.Part) bool { return len(parts) > 0 && parts[0].Is(content.RoleChild) }

// newLayout returns the layout of an image of these manifests. A layer that several
// platforms have says of none of them that it is wanted, unless one has only such
// layers.
func newLayout(all []manifest) *layout {
	l := &layout{children: make(map[digest.Digest]string, len(all)), layers: make(map[digest.Digest][]string)}
	for _, one := range all {
		l.children[one.Digest] = one.key
		l.incomplete = l.incomplete || !one.held
		for _, p := range one.Parts {
			if keys := l.layers[p.Digest]; p.IsLayer() && !slices.Contains(keys, one.key) {
				l.layers[p.Digest] = append(keys, one.key)
			}
		}
	}
	var undistinguished []string // platforms without a layer of their own
	for _, one := range all {
		if !slices.ContainsFunc(one.Parts, func(p content.Part) bool { return len(l.layers[p.Digest]) == 1 }) {
			undistinguished = append(undistinguished, one.key)
		}
	}
	for d, keys := range l.layers {
		if len(keys) > 1 {
			l.layers[d] = slices.DeleteFunc(keys, func(key string) bool { return !slices.Contains(undistinguished, key) })
		}
	}
	return l
}
