package freshness

import (
	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// Current returns what a tag was last known to name. Nothing is asked.
func (r *Resolver) Current(repo Repository, tag string) (d digest.Digest, ok bool) {
	known, ok := r.tags.get(repo.tag(tag))
	return known.Digest, ok
}

// Forget removes what is known of a tag or list, its history included, at the wish of
// an operator. A frozen tag is no longer frozen.
func (r *Resolver) Forget(name index.Name) {
	for {
		known, ok := r.tags.get(name)
		if !ok {
			return
		}
		r.tags.forget(name, known.Digest, func(index.Tag) bool { return false })
	}
}

// IsFrozen reports whether a tag is frozen.
func (r *Resolver) IsFrozen(name index.Name) bool {
	known, ok := r.tags.get(name)
	return ok && r.frozen(known)
}

// Matches reports whether the rule's globs match a tag; a list has the tag "".
func (r Rule) Matches(name index.Name) bool {
	tag := ""
	if name.Kind == index.KindTag {
		tag = name.Name
	}
	return r.matches(name.Registry, name.Repository, tag)
}
