package freshness

import (
	"iter"

	"hubcap/cache/index"
)

// Status is the state of a Resolver at one moment.
type Status struct {
	TagsInMemory int // tags and lists that are answered without reading the index
	Unwritten    int // changes of tags and lists that are not in the index yet
	Refusing     []RefusingRegistry
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
	return Status{TagsInMemory: r.tags.memory.Len(), Unwritten: len(r.tags.changes()), Refusing: r.refusals.all()}
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
