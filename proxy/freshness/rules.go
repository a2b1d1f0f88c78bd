package freshness

import (
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// Rule sets how long tags are served without asking. The first rule that matches
// a tag applies.
type Rule struct {
	// Repository is a doublestar glob of the repository's name with its
	// registry: registry.k8s.io/**. A glob that does not begin with a registry's
	// name matches in all registries: library/*. "*" alone matches everything.
	// Docker Hub is docker.io, and its library/nginx is matched by nginx too.
	Repository string
	Tag        string        // a glob
	TTL        time.Duration // ignored if Immutable
	Immutable  bool          // never ask again
}

// matches reports whether the rule applies to a tag of a repository.
func (r Rule) matches(host, name, tag string) bool {
	if r.Repository != "*" && !r.matchesName(host, name) {
		short, official := strings.CutPrefix(name, "library/")
		if !official || host != upstream.DockerHub || !r.matchesName(host, short) {
			return false
		}
	}
	return doublestar.MatchUnvalidated(r.Tag, tag)
}

// matchesName reports whether the rule's Repository matches.
func (r Rule) matchesName(host, name string) bool {
	if first, _, _ := strings.Cut(r.Repository, "/"); strings.ContainsAny(first, ".:") {
		name = host + "/" + name
	}
	return doublestar.MatchUnvalidated(r.Repository, name)
}

// rule returns the first rule that matches a tag, or the repository's own TTL as
// one.
func (r *Resolver) rule(repo Repository, tag string) Rule {
	for _, rule := range r.o.Rules {
		if rule.matches(repo.Host, repo.Name, tag) {
			return rule
		}
	}
	return Rule{TTL: repo.TTL}
}

// fresh reports whether a tag is served without asking, age after it was
// confirmed. A negative age means that the clock was set back.
func (r *Resolver) fresh(repo Repository, tag string, age time.Duration) bool {
	rule := r.rule(repo, tag)
	return rule.Immutable || age >= 0 && age < rule.TTL
}

// freshList is fresh for a list. A rule applies if it matches all tags of the
// repository; where tags are immutable, the list still grows.
func (r *Resolver) freshList(repo Repository, age time.Duration) bool {
	ttl := repo.TTL
	if rule := r.rule(repo, ""); !rule.Immutable {
		ttl = rule.TTL
	}
	return age >= 0 && age < ttl
}
