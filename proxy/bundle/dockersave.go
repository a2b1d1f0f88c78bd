package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/content"
)

// saveList is the file that lists the images of an archive of docker save. Since
// docker 25 such an archive is an OCI layout too, and then index.json counts.
const saveList = "manifest.json"

// savedName are the configs and layers of archives without a layout, as docker,
// skopeo, podman and crane write them: their names do not say which digest they have.
var savedName = regexp.MustCompile(`^((sha256:)?[0-9a-f]{64}(\.json)?|[0-9a-f]{64}(/layer)?\.tar(\.gz)?)$`)

func isSaved(name string) bool { return savedName.MatchString(name) }

// saved is what an archive of docker save has beside or instead of a layout.
type saved struct {
	list  []byte // saveList
	files map[string]savedFile
	links map[string]string // of a layer that several images have, to its file
}

type savedFile struct {
	digest digest.Digest
	size   int64
	gzip   bool
	why    string // it was not taken
}

func newSaved() *saved {
	return &saved{files: make(map[string]savedFile), links: make(map[string]string)}
}

// link notes a link to a layer.
func (s *saved) link(name string, h *tar.Header) error {
	if h.Typeflag != tar.TypeSymlink || !isSaved(name) {
		return nil
	}
	if len(s.links) >= maxFiles {
		return ErrTooMany
	}
	s.links[name] = path.Join(path.Dir(name), h.Linkname) //nolint:gosec // a key of files, and no path on a disk
	return nil
}

// find returns the file of a name in saveList.
func (s *saved) find(name string) (savedFile, error) {
	name = path.Clean(name)
	if to, ok := s.links[name]; ok {
		name = to
	}
	f, ok := s.files[name]
	switch {
	case !ok:
		return f, fmt.Errorf("%.200q is not in the archive", name)
	case f.why != "":
		return f, fmt.Errorf("%.200q: %s", name, f.why)
	}
	return f, nil
}

// saved takes a file whose digest is not known before all of it has come.
func (i *intake) saved(ctx context.Context, name string, size int64, r io.Reader) error {
	if _, again := i.save.files[name]; again {
		return nil
	}
	if len(i.save.files) >= maxFiles {
		return ErrTooMany
	}
	f := savedFile{size: size}
	content, done, err := i.spool(r, size)
	if errors.Is(err, cache.ErrNotStored) {
		f.why = err.Error()
		i.save.files[name] = f
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, name, err)
	}
	defer done()
	hash, magic := digest.SHA256.Digester(), make([]byte, 2)
	if _, err := io.Copy(hash.Hash(), content); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, name, err)
	}
	_, _ = content.ReadAt(magic, 0) // what is shorter is not compressed
	f.digest, f.gzip = hash.Digest(), bytes.Equal(magic, []byte{0x1f, 0x8b})
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, name, err)
	}
	if err := i.blob(ctx, f.digest, size, content); err != nil {
		return err
	}
	f.why = i.came[f.digest]
	i.save.files[name] = f
	return nil
}

// seeker is a file that can be read again.
type seeker interface {
	io.ReadSeeker
	io.ReaderAt
}

// spool keeps a file until done is called: in memory, or on disk.
func (i *intake) spool(r io.Reader, size int64) (content seeker, done func(), err error) {
	if size <= cache.MaxManifest {
		body, err := io.ReadAll(r)
		return bytes.NewReader(body), func() {}, err
	}
	file, err := i.cache.Spool(r, size)
	if err != nil {
		return nil, nil, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, func() { _ = file.Close() }, err // nothing is lost with it
}

// savedImage is an image in saveList.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// savedEntries returns the images of an archive without a layout, as if it had one.
// Their manifests are made here, as the archive has none.
func (i *intake) savedEntries() (entries []ocispec.Descriptor, err error) {
	var images []savedImage
	if err := json.Unmarshal(i.save.list, &images); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoBundle, saveList, err)
	}
	for _, image := range images {
		entry, err := i.savedManifest(image)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNoBundle, saveList, err)
		}
		if len(image.RepoTags) == 0 {
			image.RepoTags = []string{""}
		}
		for _, name := range image.RepoTags {
			named := entry
			named.Annotations = map[string]string{ocispec.AnnotationRefName: name}
			entries = append(entries, named)
		}
		if len(entries) > maxImages {
			return nil, ErrTooMany
		}
	}
	return entries, nil
}

// savedManifest makes the manifest of an image.
func (i *intake) savedManifest(image savedImage) (ocispec.Descriptor, error) {
	const docker = "application/vnd.docker.image.rootfs.diff.tar"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest, Layers: []ocispec.Descriptor{}}
	config, err := i.save.find(image.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m.Config = ocispec.Descriptor{MediaType: content.DockerConfig, Digest: config.digest, Size: config.size}
	for _, name := range image.Layers {
		layer, err := i.save.find(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		mediaType := docker
		if layer.gzip {
			mediaType += ".gzip"
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: layer.digest, Size: layer.size})
	}
	body, err := json.Marshal(m)
	if err != nil || len(body) > cache.MaxManifest {
		return ocispec.Descriptor{}, errors.Join(err, ErrTooMany)
	}
	d := digest.FromBytes(body)
	i.came[d], i.bodies[d] = "", body
	return ocispec.Descriptor{MediaType: dockerManifest, Digest: d, Size: int64(len(body))}, nil
}

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
