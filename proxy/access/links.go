package access

import (
	"log/slog"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
	"hubcap/proxy/memory"
)

// linksInMemory is how many links are known without reading the index.
const linksInMemory = 65_536

// Links knows which restricted blobs and manifests belong to which
// repositories: those that the registry has served from the repository, or said
// that it would. A manifest that names a blob makes no link: its author may be
// anyone who can push there, and some registries accept manifests that name
// blobs which the repository does not have. A link gives a right only to
// content that came from the repository's own registry.
//
// Its methods are safe for concurrent use.
type Links struct {
	memory  *memory.Memory[index.LinkRecord, struct{}]
	index   *index.Index
	metrics *metrics.Fills
	log     *slog.Logger
}

// NewLinks returns Links that are kept in the index.
func NewLinks(x *index.Index, m *metrics.Fills, log *slog.Logger) *Links {
	return &Links{memory: memory.New[index.LinkRecord, struct{}](linksInMemory, nil), index: x, metrics: m, log: log}
}

// Linked reports whether a repository is known to have d.
func (l *Links) Linked(registry, repository string, d digest.Digest) bool {
	link := index.LinkRecord{Digest: d, Origin: index.Origin{Registry: registry, Repository: repository}}
	if _, ok := l.memory.Get(link); ok {
		return true
	}
	linked, err := l.index.Linked(link.Origin, d)
	if err != nil {
		l.failed(err)
	}
	if linked {
		l.memory.Keep(link, struct{}{})
	}
	return linked
}

// Link records that a repository has d.
func (l *Links) Link(registry, repository string, d digest.Digest) {
	link := index.LinkRecord{Digest: d, Origin: index.Origin{Registry: registry, Repository: repository}}
	if _, ok := l.memory.Get(link); ok {
		return
	}
	l.memory.Keep(link, struct{}{})
	if err := l.index.PutLink(link.Origin, d); err != nil {
		l.failed(err)
	}
}

// Forget forgets that a repository has d, which is no longer held.
func (l *Links) Forget(registry, repository string, d digest.Digest) {
	link := index.LinkRecord{Digest: d, Origin: index.Origin{Registry: registry, Repository: repository}}
	l.memory.Remove(link)
	if err := l.index.DeleteLink(link.Origin, d); err != nil {
		l.failed(err)
	}
}

func (l *Links) failed(err error) {
	l.metrics.IndexFailed()
	l.log.Debug("a link of restricted content is known from memory only", "err", err)
}
