// Package content reads manifests: what kind one is, and which manifests and
// blobs it names (content.go, shape.go). It also keeps, in memory, which of the
// manifests that are held name what (edges.go). It knows the document formats
// of OCI and Docker and nothing else; it neither stores nor fetches anything.
package content

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind says what a manifest describes.
type Kind uint8

// The kinds of manifest.
const (
	Other   Kind = iota // none of the below: a list of tags, or a document that is not known
	Image               // an image or an artifact: a config and layers
	Index               // a list of manifests
	Schema1             // an image in Docker's first format, out of use since 2017
)

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// DockerConfig is the media type of the config of an image in Docker's format.
const DockerConfig = "application/vnd.docker.container.image.v1+json"

// The media types of Docker's first format.
const (
	DockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	DockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Manifest is what a manifest says. Descriptors with an invalid digest are left
// out.
type Manifest struct {
	Kind         Kind
	Named        string // the media type that the document gives itself; empty for none
	MediaType    string // Named, or else the type that its members show it to be; may be empty
	ArtifactType string
	Subject      digest.Digest // the manifest that this one refers to; empty for none
	Config       *Descriptor   // nil in an index
	Layers       []Descriptor
	Manifests    []Descriptor // of an index
	Annotations  []string     // the names of its annotations, sorted
}

// Descriptor is what a manifest says about a manifest or blob that it names.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"` // bytes; negative when it is not given
	ArtifactType string            `json:"artifactType"`
	Platform     *ocispec.Platform `json:"platform"` // nil when it is not given
	URLs         []string          `json:"urls"`
}

// Foreign reports whether the manifest says that the layer is not kept by its
// registry (OCI image specification, "Non-Distributable Layers").
func (d Descriptor) Foreign() bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable.")
}

// ErrAmbiguous says that a document is an image and an index at once: what two
// clients could take for two things is not served (CVE-2021-41190).
var ErrAmbiguous = errors.New("an image and an index at once")

// document is a manifest as it is written. Only what decides its type must be
// of the right JSON type.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	ArtifactType  json.RawMessage `json:"artifactType"`
	Subject       json.RawMessage `json:"subject"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	Blobs         json.RawMessage `json:"blobs"` // of an artifact manifest
	Annotations   json.RawMessage `json:"annotations"`
	FSLayers      json.RawMessage `json:"fsLayers"`   // of schema 1
	Signatures    json.RawMessage `json:"signatures"` // of schema 1
}

// present reports whether a member is there: null is as good as absent.
func present(member json.RawMessage) bool { return member != nil && string(member) != "null" }

// Parse reads a manifest. The error is ErrAmbiguous, or says why the body is not
// a JSON object that is safe to hand to clients; a JSON object that is no
// manifest is of the Kind Other.
func Parse(body []byte) (Manifest, error) {
	if err := checkShape(body); err != nil {
		return Manifest{}, err
	}
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return Manifest{}, fmt.Errorf("not a JSON object: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
		return Manifest{}, errors.New("not a JSON object: null")
	}
	if present(d.Manifests) && present(d.Layers) {
		return Manifest{}, ErrAmbiguous
	}
	m := Manifest{
		Named: d.MediaType, ArtifactType: read[string](d.ArtifactType),
		Annotations: slices.Sorted(maps.Keys(read[map[string]json.RawMessage](d.Annotations))),
	}
	if subject := read[Descriptor](d.Subject); subject.Digest.Validate() == nil {
		m.Subject = subject.Digest
	}
	d.members(&m)
	if m.MediaType = m.Named; m.Named == "" || m.Kind == Schema1 {
		m.MediaType = d.typeByShape()
	}
	return m, nil
}

// members reads what the document names, and its kind with it.
func (d document) members(m *Manifest) {
	config := read[Descriptor](d.Config)
	switch hasConfig := config.known(); {
	case d.SchemaVersion == 1 && present(d.FSLayers):
		m.Kind = Schema1
	case isArray(d.Manifests):
		m.Kind, m.Manifests = Index, valid(read[[]Descriptor](d.Manifests))
	case isArray(d.Layers), !present(d.Manifests) && !present(d.Layers) && (hasConfig || isImage(m.Named)):
		m.Kind, m.Layers = Image, valid(read[[]Descriptor](d.Layers))
		if hasConfig {
			m.Config = &config
		}
	case isArray(d.Blobs) && !present(d.Manifests) && !present(d.Layers):
		m.Kind, m.Layers = Image, valid(read[[]Descriptor](d.Blobs))
	}
}

// typeByShape is the media type of a document that does not give one, which an
// OCI manifest need not do (OCI image specification, "mediaType"); empty when
// its members do not show it.
func (d document) typeByShape() string {
	switch {
	case d.SchemaVersion == 1 && present(d.FSLayers) && present(d.Signatures):
		return DockerSchema1Signed
	case d.SchemaVersion == 1 && present(d.FSLayers):
		return DockerSchema1
	case d.SchemaVersion == 2 && present(d.Manifests):
		return ocispec.MediaTypeImageIndex
	case d.SchemaVersion == 2 && present(d.Config) && present(d.Layers):
		return ocispec.MediaTypeImageManifest
	default:
		return ""
	}
}

// read returns as much of a member as is of the right JSON type.
func read[T any](member json.RawMessage) (value T) {
	if present(member) {
		_ = json.Unmarshal(member, &value) // valid JSON; what is of another type stays zero
	}
	return value
}

func isArray(member json.RawMessage) bool { return len(member) > 0 && member[0] == '[' }

// Descriptors returns the descriptors of an OCI index, each as it is written.
// Unlike Parse it refuses an index with an invalid one.
func Descriptors(body []byte) ([]json.RawMessage, error) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, err
	}
	var found []json.RawMessage // null where there are none
	if d.SchemaVersion != 2 || d.Manifests == nil || json.Unmarshal(d.Manifests, &found) != nil {
		return nil, errors.New("an index without a list of manifests")
	}
	for _, one := range found {
		var d ocispec.Descriptor
		if json.Unmarshal(one, &d) != nil || d.Digest.Validate() != nil || d.Size < 0 || d.MediaType == "" {
			return nil, fmt.Errorf("an index with %.200q for a descriptor", one)
		}
	}
	return found, nil
}

// known reports whether a descriptor names something. A size that is not given
// becomes negative: nothing but the empty content has none.
func (d *Descriptor) known() bool {
	if d.Digest.Validate() != nil {
		return false
	}
	if d.Size <= 0 && d.Digest != d.Digest.Algorithm().FromBytes(nil) {
		d.Size = -1
	}
	return true
}

// valid leaves out the descriptors that name nothing.
func valid(all []Descriptor) []Descriptor {
	kept := all[:0]
	for _, d := range all {
		if d.known() {
			kept = append(kept, d)
		}
	}
	return kept
}

func isImage(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isImageConfig(mediaType string) bool {
	plain, _, err := mime.ParseMediaType(mediaType)
	return err == nil && (plain == ocispec.MediaTypeImageConfig || plain == DockerConfig)
}
