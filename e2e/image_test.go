package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	helmConfig     = "application/vnd.cncf.helm.config.v1+json"
	helmChart      = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// image is a tag of a repository with everything below it.
type image struct {
	repository, tag string
	root            ocispec.Descriptor // what the tag names
	child           ocispec.Descriptor // the manifest that a client on this machine ends up with: the root, unless that is an index
	manifests       map[digest.Digest]manifestFile
	blobs           map[digest.Digest][]byte
	whole           bool // needs and pulled are of all the platforms, but for the layers
}

type manifestFile struct {
	mediaType string
	content   []byte
}

func newImage(repository, tag string) *image {
	return &image{
		repository: repository, tag: tag,
		manifests: map[digest.Digest]manifestFile{},
		blobs:     map[digest.Digest][]byte{},
	}
}

// registry is the host that an image comes from: the first part of a repository if that looks like one.
func (i *image) registry() string {
	if first, _, ok := strings.Cut(i.repository, "/"); ok && strings.Contains(first, ".") {
		return first
	}
	return dockerHub
}

// path is the image without its registry, name with it.
func (i *image) path() string {
	return strings.TrimPrefix(i.repository, i.registry()+"/") + ":" + i.tag
}
func (i *image) name() string { return i.registry() + "/" + i.path() }

// all are the digests of the image for all the platforms.
func (i *image) all() map[digest.Digest]bool {
	all := map[digest.Digest]bool{}
	for d := range i.manifests {
		all[d] = true
	}
	for d := range i.blobs {
		all[d] = true
	}
	return all
}

// pulled are the digests of the blobs that a client on this machine needs: config and layers of the child.
func (i *image) pulled() []ocispec.Descriptor {
	blobs := []ocispec.Descriptor{}
	for _, d := range i.needs() {
		var manifest ocispec.Manifest
		mustUnmarshal(i.manifests[d].content, &manifest)
		if d != i.root.Digest || d == i.child.Digest {
			blobs = append(blobs, manifest.Config)
		}
		if d == i.child.Digest {
			blobs = append(blobs, manifest.Layers...)
		}
	}
	return blobs
}

// described is the image as a client needs it that wants the manifests and the configs of all the platforms besides.
func (i *image) described() *image {
	all := *i
	all.whole = true
	return &all
}

// needs are the manifests that a client on this machine needs.
func (i *image) needs() []digest.Digest {
	switch {
	case i.whole:
		return slices.Sorted(maps.Keys(i.manifests))
	case i.root.Digest == i.child.Digest:
		return []digest.Digest{i.root.Digest}
	}
	return []digest.Digest{i.root.Digest, i.child.Digest}
}

func (i *image) addBlob(mediaType string, content []byte) ocispec.Descriptor {
	d := digest.FromBytes(content)
	i.blobs[d] = content
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// addManifest adds a manifest and makes it the root.
func (i *image) addManifest(mediaType string, manifest any) ocispec.Descriptor {
	content := mustMarshal(manifest)
	d := digest.FromBytes(content)
	i.manifests[d] = manifestFile{mediaType, content}
	i.root = ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	i.child = i.root
	return i.root
}

// addIndex puts the child that runs on this machine, one for another architecture and an attestation, such as BuildKit adds to
// every image that it builds, below an index.
func (i *image) addIndex(child ocispec.Descriptor) {
	other := i.addPlatform("arm64", ocispec.MediaTypeImageLayerGzip, [][]byte{layerTar(smallFile("other "+i.repository, 100_000))})
	statement := i.addBlob("application/vnd.in-toto+json", []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`))
	attestation := i.addManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: i.addBlob(ocispec.MediaTypeImageConfig, mustMarshal(ocispec.Image{
			Author: i.repository, Platform: ocispec.Platform{Architecture: "unknown", OS: "unknown"}, RootFS: ocispec.RootFS{Type: "layers"},
		})),
		Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{Architecture: "unknown", OS: "unknown"}
	attestation.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": child.Digest.String(),
	}
	child.Platform = &ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	other.Platform = &ocispec.Platform{Architecture: "arm64", OS: "linux", Variant: "v8"}
	i.addManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{child, other, attestation},
	})
	i.child = child
}

// addPlatform adds an image of one platform, its layers given as tars and compressed as the media type says.
func (i *image) addPlatform(architecture, layerType string, tars [][]byte) ocispec.Descriptor {
	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: architecture, OS: "linux"},
		Config:   ocispec.ImageConfig{Cmd: []string{"/bin/sh"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	var layers []ocispec.Descriptor
	for _, content := range tars {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(content))
		layers = append(layers, i.addBlob(layerType, compressed(layerType, content)))
	}
	manifestType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if layerType == dockerLayer {
		manifestType, configType = dockerManifest, dockerConfig
	}
	return i.addManifest(manifestType, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: manifestType,
		Config:    i.addBlob(configType, mustMarshal(config)),
		Layers:    layers,
	})
}

// kind is a sort of content. Two images of it with other repositories have no blob in common.
type kind struct {
	name string
	make func(repository string) *image
}

var kinds = []kind{
	{"single", singleImage},
	{"multi-arch", multiArchOf},
	{"zstd", func(repository string) *image {
		i := newImage(repository, "1.0")
		i.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerZstd, threeLayers(repository))
		return i
	}},
	{"artifact", artifactOf},
	{"chart", chartOf},
}

// multiArchOf is of several platforms, with an attestation.
func multiArchOf(repository string) *image {
	i := newImage(repository, "latest")
	i.addIndex(i.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerGzip, threeLayers(repository)))
	return i
}

func multiArchImage() *image { return multiArchOf("library/multiarch") }

// singleImage is of one platform, in Docker's own format.
func singleImage(repository string) *image {
	i := newImage(repository, "8-slim")
	i.addPlatform(runtime.GOARCH, dockerLayer, threeLayers(repository))
	return i
}

// interruptible is a size in bytes of which a half does not fit into anybody's buffers.
const interruptible = 400_000

// artifactOf is an OCI artifact, and no image at all.
func artifactOf(repository string) *image {
	i := newImage(repository, "v1")
	i.addManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.sbom.v1",
		Config:       i.addBlob("application/vnd.example.sbom.config.v1+json", mustMarshal(map[string]string{"of": repository})),
		Layers:       []ocispec.Descriptor{i.addBlob("application/spdx+json", mustMarshal(map[string]any{"spdxVersion": "SPDX-2.3", "comment": smallFile(repository, interruptible).content}))},
	})
	return i
}

// chartOf is a Helm chart. The last part of its repository is its name.
func chartOf(repository string) *image {
	i := newImage(repository, "0.1.0")
	about := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: 0.1.0\ndescription: %s\n", path.Base(repository), repository)
	values := smallFile(repository, interruptible)
	values.name = path.Base(repository) + "/files/data"
	chart := layerTar(tarFile{path.Base(repository) + "/Chart.yaml", []byte(about)}, values)
	i.addManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: i.addBlob(helmConfig, mustMarshal(map[string]string{
			"name": path.Base(repository), "version": "0.1.0", "apiVersion": "v2", "description": repository,
		})),
		Layers: []ocispec.Descriptor{i.addBlob(helmChart, compressed(helmChart, chart))},
	})
	return i
}

// bigImage is one layer of random bytes, for the tests that interrupt a pull.
func bigImage(repository string, size int) *image {
	i := newImage(repository, "latest")
	i.addPlatform(runtime.GOARCH, ocispec.MediaTypeImageLayerGzip, [][]byte{layerTar(smallFile("big", size))})
	return i
}

// tarFile is a file in a layer.
type tarFile struct {
	name    string
	content []byte
}

// smallFile is a file of bytes that do not compress, the same in every run.
func smallFile(name string, size int) tarFile {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(content)
	return tarFile{name, content}
}

// threeLayers are others for each repository.
func threeLayers(repository string) [][]byte {
	var layers [][]byte
	for n, size := range []int{1_500_000, 40_000, 300} {
		file := smallFile(fmt.Sprintf("%d of %s", n, repository), size)
		file.name = fmt.Sprintf("file-%d", n)
		layers = append(layers, layerTar(file))
	}
	return layers
}

func layerTar(files ...tarFile) []byte {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, file := range files {
		must(w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}))
		_, err := w.Write(file.content)
		must(err)
	}
	must(w.Close())
	return buffer.Bytes()
}

func compressed(mediaType string, content []byte) []byte {
	if mediaType == ocispec.MediaTypeImageLayerZstd {
		w, err := zstd.NewWriter(nil)
		must(err)
		return w.EncodeAll(content, nil)
	}
	var buffer bytes.Buffer
	w, err := gzip.NewWriterLevel(&buffer, gzip.BestSpeed)
	must(err)
	_, err = w.Write(content)
	must(err)
	must(w.Close())
	return buffer.Bytes()
}

func mustMarshal(v any) []byte {
	content, err := json.Marshal(v)
	must(err)
	return content
}

func mustUnmarshal(content []byte, v any) { must(json.Unmarshal(content, v)) }

// must is for what cannot fail: everything here happens in memory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// TestImagesAreWhole keeps the images of the other tests honest: every descriptor leads somewhere.
func TestImagesAreWhole(t *testing.T) {
	images := []*image{bigImage("library/big", 1<<20)}
	for _, k := range kinds {
		images = append(images, k.make("some/"+k.name))
	}
	for _, i := range images {
		t.Run(i.repository, func(t *testing.T) {
			for d, manifest := range i.manifests {
				if digest.FromBytes(manifest.content) != d {
					t.Errorf("manifest %s has another digest", d)
				}
			}
			for _, blob := range i.pulled() {
				if int64(len(i.blobs[blob.Digest])) != blob.Size {
					t.Errorf("blob %s: %d bytes, want %d", blob.Digest, len(i.blobs[blob.Digest]), blob.Size)
				}
			}
		})
	}
}
