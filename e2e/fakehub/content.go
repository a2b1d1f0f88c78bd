package fakehub

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// source is where the bytes of a blob or an answer come from.
type source struct {
	size int64
	data []byte                            // used when open is nil
	open func() (io.ReadSeekCloser, error) // called for each request
}

// bytesSource is a source of bytes in memory.
func bytesSource(b []byte) *source { return &source{size: int64(len(b)), data: b} }

// first returns the source of the first n bytes.
func (s *source) first(n int64) *source {
	cut := *s
	cut.size = max(0, min(n, s.size))
	return &cut
}

// manifest is a stored manifest.
type manifest struct {
	mediaType string
	body      []byte
}

// repository is the content of one name.
type repository struct {
	readers   []string // nil for a public repository
	tags      map[string]digest.Digest
	manifests map[digest.Digest]manifest
	blobs     map[digest.Digest]*source
}

// store holds the content.
type store struct {
	mu    sync.RWMutex
	repos map[string]*repository
}

func (s *store) init() { s.repos = map[string]*repository{} }

// change calls f with the repository, created if it is new, under the lock.
func (s *store) change(name string, f func(*repository)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = &repository{
			tags:      map[string]digest.Digest{},
			manifests: map[digest.Digest]manifest{},
			blobs:     map[digest.Digest]*source{},
		}
		s.repos[name] = r
	}
	f(r)
}

// exists reports whether there is such a repository.
func (s *store) exists(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.repos[name] != nil
}

// readable reports whether a user ("" is anonymous) may pull from a repository.
// Unknown ones are readable unless hidden.
func (s *store) readable(name, user string, hideUnknown bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[name]
	if r == nil {
		return !hideUnknown
	}
	return r.readers == nil || user != "" && slices.Contains(r.readers, user)
}

// manifest returns a manifest by tag or digest.
func (s *store) manifest(name, reference string) (manifest, digest.Digest, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[name]
	if r == nil {
		return manifest{}, "", false
	}
	d, ok := r.tags[reference]
	if !ok {
		d = digest.Digest(reference)
	}
	m, ok := r.manifests[d]
	return m, d, ok
}

// blob returns a blob of a repository, or of any when name is empty; nil if
// there is none.
func (s *store) blob(name string, d digest.Digest) *source {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name != "" {
		if r := s.repos[name]; r != nil {
			return r.blobs[d]
		}
		return nil
	}
	for _, r := range s.repos {
		if b := r.blobs[d]; b != nil {
			return b
		}
	}
	return nil
}

// tagNames returns the sorted tags of a repository.
func (s *store) tagNames(name string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.repos[name]; r != nil {
		return slices.Sorted(maps.Keys(r.tags))
	}
	return nil
}

// referrers returns the descriptors of the manifests of a repository whose
// subject is d, sorted by digest.
func (s *store) referrers(name string, d digest.Digest) []ocispec.Descriptor {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found := []ocispec.Descriptor{}
	r := s.repos[name]
	if r == nil {
		return found
	}
	for _, own := range slices.Sorted(maps.Keys(r.manifests)) {
		m := r.manifests[own]
		var doc ocispec.Manifest
		if json.Unmarshal(m.body, &doc) != nil || doc.Subject == nil || doc.Subject.Digest != d {
			continue
		}
		artifact := doc.ArtifactType
		if artifact == "" {
			artifact = doc.Config.MediaType
		}
		found = append(found, ocispec.Descriptor{
			MediaType: m.mediaType, Digest: own, Size: int64(len(m.body)),
			ArtifactType: artifact, Annotations: doc.Annotations,
		})
	}
	return found
}

// AddBlob adds a blob under its sha256 digest.
func (h *Hub) AddBlob(repo string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	h.AddBlobAs(repo, d, data)
	return d
}

// AddBlobAs adds a blob under a digest that is not checked, for sha512 and for
// registries that send wrong bytes.
func (h *Hub) AddBlobAs(repo string, d digest.Digest, data []byte) {
	h.addSource(repo, d, bytesSource(data))
}

// AddBlobFunc adds a blob of the given digest and size whose bytes are read
// from what open returns; open is called once for each request for them. An
// *os.File is sent by sendfile.
func (h *Hub) AddBlobFunc(repo string, d digest.Digest, size int64, open func() (io.ReadSeekCloser, error)) {
	h.addSource(repo, d, &source{size: size, open: open})
}

func (h *Hub) addSource(repo string, d digest.Digest, s *source) {
	h.store.change(repo, func(r *repository) { r.blobs[d] = s })
}

// AddBlobFile adds a file under its sha256 digest. The file is read at each
// request and must not change.
func (h *Hub) AddBlobFile(repo, path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	d, err := digest.FromReader(f)
	if err != nil {
		return "", err
	}
	h.AddBlobFunc(repo, d, info.Size(), func() (io.ReadSeekCloser, error) { return os.Open(path) })
	return d, nil
}

// AddManifest adds a manifest under its sha256 digest and, when tag is not
// empty, moves the tag to it.
func (h *Hub) AddManifest(repo, tag, mediaType string, body []byte) digest.Digest {
	d := digest.FromBytes(body)
	h.AddManifestAs(repo, tag, d, mediaType, body)
	return d
}

// AddManifestAs adds a manifest under a digest that is not checked.
func (h *Hub) AddManifestAs(repo, tag string, d digest.Digest, mediaType string, body []byte) {
	h.store.change(repo, func(r *repository) {
		r.manifests[d] = manifest{mediaType, body}
		if tag != "" {
			r.tags[tag] = d
		}
	})
}

// SetTag moves a tag to a digest, whether or not there is such a manifest.
func (h *Hub) SetTag(repo, tag string, d digest.Digest) {
	h.store.change(repo, func(r *repository) { r.tags[tag] = d })
}

// DeleteTag removes a tag.
func (h *Hub) DeleteTag(repo, tag string) {
	h.store.change(repo, func(r *repository) { delete(r.tags, tag) })
}

// DeleteManifest removes a manifest and the tags that name it.
func (h *Hub) DeleteManifest(repo string, d digest.Digest) {
	h.store.change(repo, func(r *repository) {
		delete(r.manifests, d)
		maps.DeleteFunc(r.tags, func(_ string, to digest.Digest) bool { return to == d })
	})
}

// DeleteBlob removes a blob from a repository. The CDN has it as long as any
// repository does.
func (h *Hub) DeleteBlob(repo string, d digest.Digest) {
	h.store.change(repo, func(r *repository) { delete(r.blobs, d) })
}

// SetPrivate makes a repository readable for the users only, for nobody if none
// is given.
func (h *Hub) SetPrivate(repo string, users ...string) {
	h.store.change(repo, func(r *repository) { r.readers = append([]string{}, users...) })
}

// SetPublic makes a repository readable for everybody, as new ones are.
func (h *Hub) SetPublic(repo string) {
	h.store.change(repo, func(r *repository) { r.readers = nil })
}
