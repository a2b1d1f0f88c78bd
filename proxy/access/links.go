package access

import (
	"encoding/json"
	"log/slog"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
)

// linksInMemory is how many links are known without the index.
const linksInMemory = 65_536

// Links knows which closed blobs belong to which repositories: those that the
// repository's manifests name, as far as they have been fetched. A link gives
// a right only to what came from the repository's own registry.
type Links struct {
	memory  *lru.Cache[link, struct{}]
	index   *index.Index
	metrics *metrics.Fills
	log     *slog.Logger
}

type link struct {
	repository string
	digest     digest.Digest
}

// NewLinks reads and writes links in the index.
func NewLinks(x *index.Index, m *metrics.Fills, log *slog.Logger) *Links {
	memory, err := lru.New[link, struct{}](linksInMemory)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &Links{memory: memory, index: x, metrics: m, log: log}
}

// Linked tells whether the repository, by its full name, is known to have d.
func (l *Links) Linked(repository string, d digest.Digest) bool {
	if l.memory.Contains(link{repository, d}) {
		return true
	}
	linked, err := l.index.Linked(repository, d)
	if err != nil {
		l.failed(err)
	}
	if linked {
		l.memory.Add(link{repository, d}, struct{}{})
	}
	return linked
}

// Link notes that the repository has the blobs.
func (l *Links) Link(repository string, has ...digest.Digest) {
	for _, d := range has {
		l.memory.Add(link{repository, d}, struct{}{})
	}
	if err := l.index.PutLinks(repository, has); err != nil {
		l.failed(err)
	}
}

func (l *Links) failed(err error) {
	l.metrics.IndexFailed()
	l.log.Debug("a link of closed content is known from memory only", "err", err)
}

// Named are the digests that a manifest names as its parts.
func Named(manifest []byte) (all []digest.Digest) {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	var m struct {
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
		Blobs     []descriptor `json:"blobs"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return nil
	}
	for _, parts := range [][]descriptor{{m.Config}, m.Layers, m.Manifests, m.Blobs} {
		for _, one := range parts {
			if one.Digest.Validate() == nil {
				all = append(all, one.Digest)
			}
		}
	}
	return all
}
