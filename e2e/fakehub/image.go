package fakehub

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image describes an image that was added.
type Image struct {
	Manifest ocispec.Descriptor // with Platform
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Body     []byte // of the manifest
}

// Image adds an OCI image for linux/amd64 with the given layers; tag may be
// empty. Layers may be any bytes; those that real clients unpack must be tar
// archives, see Tar, gzipped or not.
func (h *Hub) Image(repo, tag string, layers ...[]byte) Image {
	var descriptors []ocispec.Descriptor
	var diffIDs []digest.Digest
	for _, layer := range layers {
		added := h.AddBlob(repo, layer)
		mediaType, diffID := ocispec.MediaTypeImageLayer, added
		if z, err := gzip.NewReader(bytes.NewReader(layer)); err == nil {
			if d, err := digest.FromReader(z); err == nil {
				mediaType, diffID = ocispec.MediaTypeImageLayerGzip, d
			}
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: added, Size: int64(len(layer))}
		descriptors, diffIDs = append(descriptors, d), append(diffIDs, diffID)
	}
	return h.image(repo, tag, descriptors, diffIDs)
}

// ImageOf is Image with uncompressed layers that were added before, for
// instance with AddBlobFile.
func (h *Hub) ImageOf(repo, tag string, layers ...ocispec.Descriptor) Image {
	var diffIDs []digest.Digest
	for _, l := range layers {
		diffIDs = append(diffIDs, l.Digest)
	}
	return h.image(repo, tag, layers, diffIDs)
}

func (h *Hub) image(repo, tag string, layers []ocispec.Descriptor, diffIDs []digest.Digest) Image {
	platform := ocispec.Platform{Architecture: "amd64", OS: "linux"}
	config := encode(ocispec.Image{
		Platform: platform,
		Config:   ocispec.ImageConfig{Cmd: []string{"/bin/true"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	img := Image{Layers: layers, Config: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: h.AddBlob(repo, config), Size: int64(len(config)),
	}}
	img.Body = encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    img.Config,
		Layers:    append([]ocispec.Descriptor{}, layers...),
	})
	img.Manifest = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Platform: &platform, Size: int64(len(img.Body)),
		Digest: h.AddManifest(repo, tag, ocispec.MediaTypeImageManifest, img.Body),
	}
	return img
}

// Index adds an OCI index of manifests; tag may be empty. For other platforms,
// change the descriptors' Platform first.
func (h *Hub) Index(repo, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	body := encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, manifests...),
	})
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Size: int64(len(body)),
		Digest: h.AddManifest(repo, tag, ocispec.MediaTypeImageIndex, body),
	}
}

// encode returns the JSON of what can always be encoded.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Tar returns a tar archive with one file, always the same for the same input.
func Tar(name string, content []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// A bytes.Buffer does not fail, and the size is right.
	w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Format: tar.FormatPAX})
	w.Write(content)
	w.Close()
	return b.Bytes()
}

// RandomBlob returns n incompressible bytes, always the same for one seed.
func RandomBlob(seed uint64, n int) []byte {
	b := make([]byte, n)
	fillRandom(b, seed, 0)
	return b
}

// AddRandomBlob adds the n bytes of RandomBlob without holding them in memory.
func (h *Hub) AddRandomBlob(repo string, seed uint64, n int64) digest.Digest {
	open := func() (io.ReadSeekCloser, error) { return &randomReader{seed: seed, size: n}, nil }
	r, _ := open()
	d, err := digest.FromReader(r)
	if err != nil {
		panic(err) // randomReader never fails
	}
	h.AddBlobFunc(repo, d, n, open)
	return d
}

// fillRandom fills b with the bytes from offset on: splitmix64 of the counter,
// so that any offset can be computed at once.
func fillRandom(b []byte, seed uint64, offset int64) {
	var word [8]byte
	for len(b) > 0 {
		x := (seed+1)*0x9e3779b97f4a7c15 + uint64(offset/8)*0xd1342543de82ef95
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
		if skip := offset % 8; skip == 0 && len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, x)
			b, offset = b[8:], offset+8
		} else {
			binary.LittleEndian.PutUint64(word[:], x)
			n := copy(b, word[skip:])
			b, offset = b[n:], offset+int64(n)
		}
	}
}

// randomReader reads the bytes of RandomBlob.
type randomReader struct {
	seed      uint64
	size, pos int64
}

func (r *randomReader) Read(p []byte) (int, error) {
	n := min(int64(len(p)), r.size-r.pos)
	if n <= 0 {
		return 0, io.EOF
	}
	fillRandom(p[:n], r.seed, r.pos)
	r.pos += n
	return int(n), nil
}

func (r *randomReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	r.pos = offset
	return offset, nil
}

func (r *randomReader) Close() error { return nil }
