package freshness

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hubcap/cache/index"
)

// Status is the state of a Resolver at one moment.
type Status struct {
	TagsInMemory int // tags and lists that are answered without reading the index
	Unwritten    int // changes of tags and lists that are not in the index yet
	Tags         TagCounts
	Refusing     []RefusingRegistry
	Stale        []StaleRegistry
}

// StaleRegistry is a registry of which stale content is served: tags that it
// fails to confirm. It is one as long as not staleFor has passed between two such
// answers.
type StaleRegistry struct {
	Registry    string
	Since, Last time.Time
	Answers     int // since then
}

// staleFor is how long a registry counts as stale after a stale answer.
const staleFor = 5 * time.Minute

// staleness is what was served stale, by registry. The zero value is ready; it is
// safe for concurrent use. There are as many registries in it as are configured.
type staleness struct {
	mu sync.Mutex
	of map[string]StaleRegistry
}

func (s *staleness) served(registry string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.of[registry]
	if now.Sub(one.Last) >= staleFor {
		one = StaleRegistry{Registry: registry, Since: now}
	}
	one.Last = now
	one.Answers++
	if s.of == nil {
		s.of = make(map[string]StaleRegistry)
	}
	s.of[registry] = one
}

// all returns the registries that are stale at present, by name.
func (s *staleness) all(now time.Time) []StaleRegistry {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.of, func(_ string, one StaleRegistry) bool { return now.Sub(one.Last) >= staleFor })
	return slices.SortedFunc(maps.Values(s.of), func(a, b StaleRegistry) int { return strings.Compare(a.Registry, b.Registry) })
}

// RefusingRegistry is a registry that refuses everything at present; see
// Resolver.Refusing.
type RefusingRegistry struct {
	Registry     string
	Repositories []string // that it has refused within the last minute, sorted
}

// Status returns the state of the Resolver. It asks no upstream and reads no
// disk.
func (r *Resolver) Status() Status {
	return Status{TagsInMemory: r.tags.memory.Len(), Unwritten: len(r.tags.changes()), Tags: r.Counts(), Refusing: r.refusals.all(), Stale: r.staleness.all(r.o.Now())}
}

// Known iterates over the tags and lists that are known in a repository, in no
// order; an empty repository stands for all of the registry, an empty registry
// for all. It holds no lock while its caller works. Where the index fails, it
// ends with what is in memory.
func (r *Resolver) Known(registry, repository string) iter.Seq2[index.Name, index.Tag] {
	return r.tags.all(registry, repository)
}

// Refusing reports whether a registry refuses everything at present. Its
// refusals then do not mean that it does not have what was asked for.
func (r *Resolver) Refusing(host string) bool { return r.refusals.refusing(host) }
