// Package reference reads the names that people write for images:
// nginx:1.27, ghcr.io/acme/app@sha256:…. It knows no upstream: whether a registry
// is configured is not its question.
package reference

import (
	"fmt"
	"strings"

	distribution "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Docker Hub's name in references, and the tag that a reference without one means.
const (
	DockerHub  = "docker.io"
	DefaultTag = "latest"
)

// Reference names an image in a registry. Tag or Digest is set, or both: then the
// digest decides.
type Reference struct {
	Registry   string // docker.io
	Repository string // library/nginx
	Tag        string
	Digest     digest.Digest
}

// Parse reads a reference as docker writes it: library/ and the tag latest are
// added where they are left out. A name without a registry is one of def. The error
// says what is wrong with the reference.
func Parse(s, def string) (Reference, error) {
	full := s
	if first, _, nested := strings.Cut(s, "/"); def != DockerHub && (!nested || !isHost(first)) {
		full = def + "/" + s
	}
	named, err := distribution.ParseDockerRef(full)
	if err != nil {
		return Reference{}, fmt.Errorf("%q is no image reference: %w", s, err)
	}
	r := Reference{Registry: distribution.Domain(named), Repository: distribution.Path(named)}
	if digested, ok := named.(distribution.Digested); ok {
		r.Digest = digested.Digest()
	}
	// ParseDockerRef leaves out the tag beside a digest.
	if with, err := distribution.ParseNormalizedNamed(full); err == nil {
		named = with
	}
	switch tagged, ok := named.(distribution.Tagged); {
	case ok:
		r.Tag = tagged.Tag()
	case r.Digest == "":
		r.Tag = DefaultTag
	}
	return r, nil
}

// isHost reports whether the first part of a reference is a registry, as docker
// decides it.
func isHost(first string) bool {
	return strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first
}

// Names returns the first three of some references, for people.
func Names(refs []Reference) string {
	var names []string
	for _, ref := range refs[:min(len(refs), 3)] {
		names = append(names, ref.String())
	}
	if len(refs) > 3 {
		names = append(names, "…")
	}
	return strings.Join(names, " ")
}

// String returns the full reference, as Parse reads it: docker.io/library/nginx:1.27.
func (r Reference) String() string {
	s := r.Registry + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}
