package access

import (
	"log/slog"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
)

// linksInMemory is how many links are known without the index.
const linksInMemory = 65_536

// Links knows which closed blobs and manifests belong to which repositories:
// those that their registry has given there, or said that it would. That a
// manifest names a blob is no link: whoever may push there has written it, and
// registries take some that name what the repository does not have. A link
// gives a right only to what came from the repository's own registry.
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

// Link notes that the repository has d.
func (l *Links) Link(repository string, d digest.Digest) {
	if l.memory.Contains(link{repository, d}) {
		return
	}
	l.memory.Add(link{repository, d}, struct{}{})
	if err := l.index.PutLinks(repository, []digest.Digest{d}); err != nil {
		l.failed(err)
	}
}

func (l *Links) failed(err error) {
	l.metrics.IndexFailed()
	l.log.Debug("a link of closed content is known from memory only", "err", err)
}
