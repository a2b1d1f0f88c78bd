package freshness

import (
	"iter"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// InOutage returns the tag as it would be answered if its upstream failed from
// now on, whether what it names is held or not. allowed is false where the time
// for which stale content is served does not permit that. It asks no upstream, and
// is no use of what is held.
func (r *Resolver) InOutage(repo Repository, name string) (tag index.Tag, allowed, known bool) {
	if tag, known = r.tags.get(repo.tag(name)); !known {
		return tag, false, false
	}
	return tag, r.rule(repo, name).Immutable || r.mayBeStale(repo, tag), true
}

// EarlierDigests iterates over the digests that a tag named before, held or not,
// the latest first.
func (r *Resolver) EarlierDigests(repo Repository, tag string) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		if tag == "" {
			return
		}
		known, _ := r.tags.get(repo.tag(tag))
		for _, one := range known.Earlier {
			if !yield(one.Digest) {
				return
			}
		}
	}
}
