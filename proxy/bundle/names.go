package bundle

import (
	"cmp"
	"fmt"
	"strings"

	distribution "github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/proxy/reference"
)

// naming gives the images of a bundle their names.
type naming struct {
	as     reference.Reference // zero for none
	tagged bool                // as is the name of one image, and not of a repository
}

// parseNaming reads the name that images are to have: of one image with its tag, or
// of a repository, for all that have no full name.
func parseNaming(as string) (naming, error) {
	if as == "" {
		return naming{}, nil
	}
	ref, err := reference.Parse(as, reference.DockerHub)
	if err != nil {
		return naming{}, fmt.Errorf("%w: %w", ErrNames, err)
	}
	if ref.Digest != "" {
		return naming{}, fmt.Errorf("%w: %s has a digest, which only the bundle decides", ErrNames, as)
	}
	named, err := distribution.ParseNormalizedNamed(as)
	return naming{ref, err == nil && !distribution.IsNameOnly(named)}, nil
}

// nameOf returns the name that an entry of index.json has in its layout; empty for
// none.
func nameOf(entry ocispec.Descriptor) string {
	return cmp.Or(entry.Annotations[nameAnnotation], entry.Annotations[ocispec.AnnotationRefName])
}

// of returns the reference of an image that the bundle calls name.
func (n naming) of(name string) (reference.Reference, error) {
	if n.tagged {
		return n.as, nil
	}
	if isFull(name) {
		ref, err := reference.Parse(name, reference.DockerHub)
		if err != nil {
			return reference.Reference{}, fmt.Errorf("%w: %w", ErrNames, err)
		}
		return ref, nil
	}
	if n.as == (reference.Reference{}) {
		return reference.Reference{}, fmt.Errorf("%w: %q names no registry; as= gives it a name", ErrNames, name)
	}
	ref := n.as
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		name = name[i+1:]
	}
	if ref.Tag = cmp.Or(name, reference.DefaultTag); distribution.TagRegexp.FindString(ref.Tag) != ref.Tag {
		return reference.Reference{}, fmt.Errorf("%w: %q is no tag", ErrNames, name)
	}
	return ref, nil
}

// isFull reports whether a name has a registry.
func isFull(name string) bool {
	registry, _, nested := strings.Cut(name, "/")
	return nested && (strings.ContainsAny(registry, ".:") || registry == "localhost")
}
