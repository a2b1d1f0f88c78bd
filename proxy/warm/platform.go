package warm

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
)

// AllPlatforms in Request.Platforms stands for every platform of an image.
const AllPlatforms = "all"

// The other names of architectures, and the variants that are meant without one, as
// containerd and docker read them (github.com/containerd/platforms).
var (
	architectures = map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm/v6"}
	usualVariants = map[string]string{"amd64": "v1", "arm64": "v8", "arm": "v7"}
)

// parsePlatform reads os/architecture[/variant]; an architecture alone is one of
// Linux.
func parsePlatform(s string) (string, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	if len(parts) > 3 || slices.Contains(parts, "") {
		return "", fmt.Errorf("%q is no platform: linux/amd64 and linux/arm/v7 are", s)
	}
	return newPlatform(parts[0], parts[1], strings.Join(parts[2:], "")), nil
}

// newPlatform returns a platform in the one spelling that this package uses:
// os/architecture, and /variant where it is not the usual one of the architecture.
func newPlatform(os, architecture, variant string) string {
	if known, ok := architectures[architecture]; ok {
		var named string
		architecture, named, _ = strings.Cut(known, "/")
		if variant == "" {
			variant = named
		}
	}
	if variant == usualVariants[architecture] {
		variant = ""
	}
	p := os + "/" + architecture
	if variant != "" {
		p += "/" + variant
	}
	return p
}

// platformOf returns the platform that a child of an index is for; "" where the
// index does not say.
func platformOf(d content.Descriptor) string {
	if d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "" {
		return ""
	}
	return newPlatform(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant)
}

// unknownPlatform is what BuildKit gives its attestations, which are manifests
// about an image and no image (docs.docker.com/build/metadata/attestations/attestation-storage).
const unknownPlatform = "unknown/unknown"

// parsePlatforms reads the platforms of a Request; all says that every one is
// wanted.
func parsePlatforms(names []string) (wanted []string, all bool, err error) {
	for _, name := range names {
		if name == AllPlatforms {
			return nil, true, nil
		}
		p, err := parsePlatform(name)
		if err != nil {
			return nil, false, err
		}
		wanted = append(wanted, p)
	}
	return wanted, false, nil
}

// choose returns the children of an index that are of the wanted platforms, those
// that are indexes themselves included; all of them where none has a platform.
func choose(children []content.Descriptor, wanted []string, all bool) (chosen []content.Descriptor) {
	children = slices.DeleteFunc(slices.Clone(children), func(d content.Descriptor) bool { return platformOf(d) == unknownPlatform })
	all = all || !slices.ContainsFunc(children, func(d content.Descriptor) bool { return platformOf(d) != "" })
	for _, d := range children {
		p := platformOf(d)
		if all || slices.Contains(wanted, p) || p == "" && isIndex(d.MediaType) {
			chosen = append(chosen, d)
		}
	}
	return chosen
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

// What follows is for rooms that know what an image consists of, too. Platforms are as
// in Request.Platforms.

// DefaultPlatform returns the platform that is fetched where none is named or in
// use.
func DefaultPlatform() string { return newPlatform("linux", runtime.GOARCH, "") }

// InUse returns the platforms of an index, by its children, of which clients have
// pulled layers here, as far as what is held shows that: those that have all of their
// layers held, or one that no other platform of the index has.
func InUse(children []content.Descriptor, parts func(digest.Digest) ([]content.Part, bool), has func(digest.Digest) bool) (all []string) {
	owners := make(map[digest.Digest]int) // how many children name it
	for _, child := range children {
		named, _ := parts(child.Digest)
		for _, p := range named {
			owners[p.Digest]++
		}
	}
	for _, child := range children {
		p := platformOf(child)
		if p == "" || p == unknownPlatform || slices.Contains(all, p) {
			continue
		}
		named, _ := parts(child.Digest)
		own := slices.ContainsFunc(named, func(p content.Part) bool { return p.IsLayer() && owners[p.Digest] == 1 && has(p.Digest) })
		lacks := slices.ContainsFunc(named, func(p content.Part) bool { return p.Is(content.RoleNeeded) && !has(p.Digest) })
		if own || len(named) > 0 && !lacks {
			all = append(all, p)
		}
	}
	return all
}

// ParsePlatforms returns platforms in the one spelling that this package uses.
func ParsePlatforms(names []string) ([]string, error) {
	wanted, all, err := parsePlatforms(names)
	if all {
		return []string{AllPlatforms}, nil
	}
	return wanted, err
}

// Choose returns the children of an index that are of the platforms; all of them
// where none has a platform. Attestations are never among them.
func Choose(children []content.Descriptor, platforms []string) []content.Descriptor {
	wanted, all, err := parsePlatforms(platforms)
	if err != nil {
		return nil
	}
	return choose(children, wanted, all)
}

// IsAttestation reports whether a child of an index is an attestation of BuildKit.
func IsAttestation(child content.Descriptor) bool { return platformOf(child) == unknownPlatform }
