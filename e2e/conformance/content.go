// Package conformance asks a registry whether it does what the OCI
// distribution specification says of pulling and of content discovery. It only
// reads: what it asks about has been put into the registry before.
//
// It knows the specification; it knows nothing of caches. Files: content.go
// (what is asked about), conformance.go (the questions).
package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	_ "crypto/sha256" // digests to be computed
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifest is a manifest, with the tag that it has if that is not empty.
type Manifest struct {
	Tag       string
	Digest    digest.Digest
	MediaType string
	Body      []byte
}

// Blob is a blob.
type Blob struct {
	Digest digest.Digest
	Body   []byte
}

// Lacks says what a registry cannot hold or answer.
type Lacks struct {
	Referrers bool // the API; clients keep indexes under tags in its place
	SHA512    bool // and other digests than sha256
	Untagged  bool // repositories without a tag
}

// Content is a repository full of what registries have trouble with.
type Content struct {
	Repository string
	Empty      string // a repository without tags
	Manifests  []Manifest
	Blobs      []Blob
	Lacks      Lacks

	ranged    Blob // of 3000 bytes, asked for in ranges only
	referrers []referrers
}

// referrers are the manifests of two types that refer to a subject.
type referrers struct {
	name    string
	subject digest.Digest
	all     []ocispec.Descriptor
}

// The types of artifacts.
const (
	typeSBOM      = "application/vnd.example.sbom.v1"
	typeSignature = "application/vnd.example.signature.v1+json"
)

// NewContent makes content that is the same each time.
func NewContent(repository, empty string, lacks Lacks) *Content {
	c := &Content{Repository: repository, Empty: empty, Lacks: lacks}
	c.ranged = Blob{Body: random(1, 3000)}
	c.ranged.Digest = digest.FromBytes(c.ranged.Body)
	layer := c.blob(ocispec.MediaTypeImageLayer, digest.SHA256, random(2, 100_000))
	nothing := c.blob(ocispec.MediaTypeImageLayer, digest.SHA256, []byte{})
	config := c.blob(ocispec.MediaTypeImageConfig, digest.SHA256, encode(ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}}))
	void := c.blob(ocispec.MediaTypeEmptyJSON, digest.SHA256, []byte("{}"))
	image := func(tag string, change func(*ocispec.Manifest)) ocispec.Descriptor {
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: map[string]string{"org.example.name": tag},
		}
		change(&m)
		return c.manifest(tag, digest.SHA256, m.MediaType, encode(m))
	}
	plain := image("image", func(*ocispec.Manifest) {})
	image("Image", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, nothing) })
	image("data", func(m *ocispec.Manifest) { m.Config = void; m.Config.Data = []byte("{}") })
	image("1.0", func(m *ocispec.Manifest) { m.Annotations["org.example.large"] = strings.Repeat("x", 4<<20-2000) })
	c.custom(config, layer)
	index := c.index("index", plain)
	c.index("index-of-index", index, plain)
	artifact := func(tag, kind string, subject *ocispec.Descriptor) ocispec.Descriptor {
		d := image(tag, func(m *ocispec.Manifest) {
			m.ArtifactType, m.Config, m.Layers, m.Subject = kind, void, []ocispec.Descriptor{void}, subject
		})
		d.ArtifactType = kind
		return d
	}
	artifact("artifact", typeSBOM, nil)
	ofImage := []ocispec.Descriptor{artifact("", typeSBOM, &plain), artifact("", typeSignature, &plain)}
	ofArtifact := []ocispec.Descriptor{artifact("", typeSignature, &ofImage[0])}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	ofAbsent := []ocispec.Descriptor{artifact("", typeSBOM, &absent)}
	c.referrers = []referrers{
		{"an image", plain.Digest, ofImage},
		{"an artifact", ofImage[0].Digest, ofArtifact},
		{"a manifest that is not there", absent.Digest, ofAbsent},
		{"an image that nobody refers to", index.Digest, nil},
	}
	if lacks.Referrers {
		for _, r := range c.referrers[:3] {
			c.index("sha256-"+r.subject.Encoded(), r.all...)
		}
	}
	if !lacks.SHA512 {
		long := c.blob(ocispec.MediaTypeImageLayer, digest.SHA512, random(3, 5000))
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: []ocispec.Descriptor{long},
		}
		c.manifest("sha512", digest.SHA512, m.MediaType, encode(m))
	}
	return c
}

// AllBlobs are the blobs that the registry has to hold.
func (c *Content) AllBlobs() []Blob { return append([]Blob{c.ranged}, c.Blobs...) }

// custom adds a manifest of fields and white space that nobody knows.
func (c *Content) custom(config, layer ocispec.Descriptor) {
	body := fmt.Sprintf("{\n\t\"schemaVersion\": 2, \"mediaType\": %q,\n\t\"config\": %s,\n\t\"layers\": [%s],\n\t\"org.example\": {\"a\": [1, null, \"\\u00e4<>&\"]}\n}\n\n",
		ocispec.MediaTypeImageManifest, encode(config), encode(layer))
	c.manifest("custom", digest.SHA256, ocispec.MediaTypeImageManifest, []byte(body))
}

func (c *Content) index(tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	return c.manifest(tag, digest.SHA256, ocispec.MediaTypeImageIndex, encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	}))
}

func (c *Content) blob(mediaType string, a digest.Algorithm, body []byte) ocispec.Descriptor {
	d := a.FromBytes(body)
	c.Blobs = append(c.Blobs, Blob{d, body})
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

func (c *Content) manifest(tag string, a digest.Algorithm, mediaType string, body []byte) ocispec.Descriptor {
	d := a.FromBytes(body)
	c.Manifests = append(c.Manifests, Manifest{tag, d, mediaType, body})
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// random is the same for the same seed.
func random(seed byte, n int) []byte {
	body := make([]byte, n)
	var key [32]byte
	key[0] = seed
	_, _ = rand.NewChaCha8(key).Read(body) // never fails
	return body
}

// encode is JSON, with the characters of HTML as they are, of what cannot fail
// to be encoded.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
