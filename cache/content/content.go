// Package content reads manifests: what kind one is, and which manifests and
// blobs it names. It knows the document formats of OCI and Docker and nothing
// else; it neither stores nor fetches anything.
package content

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind says what a manifest describes.
type Kind uint8

// The kinds of manifest.
const (
	Image Kind = iota + 1 // an image or an artifact: a config and layers
	Index                 // a list of manifests
)

// DockerConfig is the media type of the config of an image in Docker's format.
const DockerConfig = "application/vnd.docker.container.image.v1+json"

// MaxNesting is how many indexes may lie one in another and still be followed.
const MaxNesting = 3

// Manifest is what a manifest says. Descriptors with an invalid digest are left
// out.
type Manifest struct {
	Kind         Kind
	MediaType    string // what the document calls itself, or else what its members say it is
	ArtifactType string
	Subject      digest.Digest // the manifest that this one refers to; empty for none
	Config       *Blob         // nil in an index
	Layers       []Blob
	Manifests    []Child // of an index
}

// Child is a manifest that an index names.
type Child struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"` // bytes; negative when the index does not say
	ArtifactType string            `json:"artifactType"`
	Platform     *ocispec.Platform `json:"platform"` // nil when the index does not say
}

// Blob is a config or layer that an image names.
type Blob struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes; negative when the manifest does not say
	URLs      []string      `json:"urls"`
}

// Foreign reports whether the manifest says that the layer is not kept by its
// registry (OCI image specification, "Non-Distributable Layers").
func (b Blob) Foreign() bool {
	return len(b.URLs) > 0 || strings.Contains(b.MediaType, ".foreign.") || strings.Contains(b.MediaType, ".nondistributable.")
}

// ErrNotManifest says that a document is neither an image nor an index.
var ErrNotManifest = errors.New("neither an image nor an index")

// document is a manifest as it is written.
type document struct {
	SchemaVersion int      `json:"schemaVersion"`
	MediaType     string   `json:"mediaType"`
	ArtifactType  string   `json:"artifactType"`
	Subject       *Blob    `json:"subject"`
	Config        *Blob    `json:"config"`
	Layers        *[]Blob  `json:"layers"`
	Manifests     *[]Child `json:"manifests"`
	Blobs         *[]Blob  `json:"blobs"` // of an artifact manifest
}

// Parse reads an image or an index. The error is ErrNotManifest for any other
// JSON, and for what is an image and an index at once.
func Parse(body []byte) (Manifest, error) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrNotManifest, err)
	}
	m := Manifest{MediaType: d.MediaType, ArtifactType: d.ArtifactType}
	if d.Subject != nil && d.Subject.Digest.Validate() == nil {
		m.Subject = d.Subject.Digest
	}
	switch {
	case d.Manifests != nil && d.Layers == nil:
		m.Kind = Index
		m.Manifests = valid(*d.Manifests)
	case d.Manifests == nil && (d.Layers != nil || d.Config != nil && known(d.Config)):
		m.Kind = Image
		if d.Config != nil && known(d.Config) {
			m.Config = d.Config
		}
		if d.Layers != nil {
			m.Layers = valid(*d.Layers)
		}
	case d.Blobs != nil && d.Manifests == nil:
		m.Kind = Image
		m.Layers = valid(*d.Blobs)
	default:
		return Manifest{}, ErrNotManifest
	}
	if m.MediaType == "" {
		m.MediaType = byShape(d.SchemaVersion, m)
	}
	return m, nil
}

// byShape is the media type of a document that does not give one. OCI's need
// not.
func byShape(schemaVersion int, m Manifest) string {
	switch {
	case schemaVersion != 2:
		return ""
	case m.Kind == Index:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest
	default:
		return ""
	}
}

// described is a descriptor of a blob or of a manifest.
type described interface {
	target() (d digest.Digest, size *int64)
}

func (b *Blob) target() (digest.Digest, *int64)  { return b.Digest, &b.Size }
func (c *Child) target() (digest.Digest, *int64) { return c.Digest, &c.Size }

// known reports whether a descriptor names something. A size that is not given
// becomes negative: nothing but the empty content has none.
func known(of described) bool {
	d, size := of.target()
	if d.Validate() != nil {
		return false
	}
	if *size <= 0 && d != d.Algorithm().FromBytes(nil) {
		*size = -1
	}
	return true
}

// valid leaves out the descriptors that name nothing.
func valid[T any, P interface {
	*T
	described
}](all []T) []T {
	kept := all[:0]
	for i := range all {
		if known(P(&all[i])) {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// Blobs calls visit with the layers and the config, until it returns false.
func (m Manifest) Blobs(visit func(b Blob) bool) {
	for _, b := range m.Layers {
		if !visit(b) {
			return
		}
	}
	if m.Config != nil {
		visit(*m.Config)
	}
}

// Needed calls visit with the blobs that every client of the manifest fetches:
// all layers but foreign ones, and the config of an image. Clients of other
// artifacts, ORAS and Trivy among them, fetch the layers alone. The empty blob
// need not be fetched at all.
func (m Manifest) Needed(visit func(b Blob) bool) {
	m.Blobs(func(b Blob) bool {
		config := m.Config != nil && b.Digest == m.Config.Digest
		switch {
		case b.MediaType == ocispec.MediaTypeEmptyJSON, b.Foreign():
			return true
		case config && !isImageConfig(b.MediaType):
			return true
		default:
			return visit(b)
		}
	})
}

func isImageConfig(mediaType string) bool {
	plain, _, err := mime.ParseMediaType(mediaType)
	return err == nil && (plain == ocispec.MediaTypeImageConfig || plain == DockerConfig)
}
