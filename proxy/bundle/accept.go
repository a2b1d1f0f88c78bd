package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
)

// Why an image of a bundle does not become one of this box.
var (
	errNotWhole  = errors.New("it is not whole")
	errNotShared = errors.New("it was pulled with the credentials of another box, and its repository is not shared here: HUBCAP_UPSTREAM_<n>_SHARED_REPOSITORIES")
	errRepacked  = errors.New("docker save has packed it anew, so that its digest is not the registry's; with force it becomes this tag")
	errDigest    = errors.New("its name has another digest")
)

// accept makes the images of a bundle images of this box.
func (i *intake) accept(ctx context.Context) error {
	entries, err := i.entries()
	if err != nil {
		return err
	}
	if i.naming.tagged {
		for _, entry := range entries {
			if entry.Digest != entries[0].Digest {
				return fmt.Errorf("%w: %s is the name of one image, and the bundle has %d", ErrNames, i.naming.as, len(entries))
			}
		}
		entries = entries[:min(len(entries), 1)]
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i.result.Images = append(i.result.Images, i.image(entry))
	}
	for d, size := range i.sizes {
		if i.accepts[d] {
			i.result.Objects++
			i.result.Bytes += size
		}
	}
	return nil
}

// entries returns the images of a bundle, as index.json lists them.
func (i *intake) entries() ([]ocispec.Descriptor, error) {
	if i.index == nil {
		return i.savedEntries()
	}
	var index ocispec.Index
	m, err := content.Parse(i.index)
	if err == nil && m.Kind != content.Index {
		err = errors.New("it is no index of images")
	}
	if err == nil {
		err = json.Unmarshal(i.index, &index)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: index.json: %w", ErrNoBundle, err)
	case len(index.Manifests) > maxImages:
		return nil, ErrTooMany
	}
	for _, entry := range index.Manifests {
		if err := entry.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%w: index.json: %w", ErrNoBundle, err)
		}
	}
	return index.Manifests, nil
}

// image makes an image one of this box, if it is whole.
func (i *intake) image(entry ocispec.Descriptor) Image {
	one := Image{Name: nameOf(entry), Digest: entry.Digest}
	ref, from, err := i.place(entry)
	if ref.Repository != "" {
		one.Ref = ref.String()
	}
	if err != nil {
		one.Why = err.Error()
		return one
	}
	t := i.treeOf(from, entry)
	one.Missing, one.Platforms = t.missing, t.platforms
	err = i.take(ref, t)
	one.OK, one.Set = err == nil && t.lacks == 0, err == nil && !i.order.DryRun
	switch {
	case t.lacks == 1:
		one.Why = fmt.Sprintf("%s: %s: %s", errNotWhole, t.missing[0].Digest, t.missing[0].Why)
	case t.lacks > 1:
		one.Why = fmt.Sprintf("%s: %d of its manifests and blobs are missing", errNotWhole, t.lacks)
	case err != nil:
		one.Why = err.Error()
	}
	return one
}

// place returns where an image of a bundle belongs.
func (i *intake) place(entry ocispec.Descriptor) (reference.Reference, pull.Repository, error) {
	ref, err := i.naming.of(nameOf(entry))
	if err != nil {
		return reference.Reference{}, pull.Repository{}, err
	}
	if ref.Digest != "" && ref.Digest != entry.Digest {
		return ref, pull.Repository{}, errDigest
	}
	from, err := i.b.o.Warm.Repository(ref)
	if err == nil && entry.Annotations[sharedAnnotation] == "true" && !from.View.Restricted() {
		err = errNotShared
	}
	return ref, from, err
}

// take stores the manifests of an image, shows it to clients, and then sets its tag.
func (i *intake) take(ref reference.Reference, t *tree) error {
	n := len(t.manifests)
	if t.lacks > 0 && !i.order.Partial || n == 0 || t.manifests[n-1].Digest != t.top {
		return errNotWhole
	}
	if i.save.list != nil && (t.plain || i.index == nil) && !i.order.Force {
		if known, ok := t.from.Known(ref.Tag); !ok || known != t.top {
			return errRepacked
		}
	}
	for _, d := range t.blobs {
		i.accepts[d] = true
	}
	for _, m := range t.manifests {
		i.accepts[m.Digest] = true
	}
	if i.order.DryRun {
		return nil
	}
	for _, d := range t.blobs {
		t.from.TakeBlob(d)
	}
	for _, m := range t.manifests {
		if err := t.from.TakeManifest(m.Descriptor, m.body); err != nil {
			return fmt.Errorf("%s: %w", m.Digest, err)
		}
	}
	i.cache.UseImage(t.top)
	if ref.Tag == "" {
		return nil
	}
	_, err := t.from.TakeTag(ref.Tag, t.manifests[n-1].Descriptor)
	return err
}
