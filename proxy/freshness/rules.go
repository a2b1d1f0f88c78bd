package freshness

import (
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/cache/index"
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

// Cooldown sets how long the new digest of a tag waits after this box first saw
// it, before clients are given it. The first one that matches a tag applies; For
// may be 0.
type Cooldown struct {
	Repository, Tag string // as in a Rule
	For             time.Duration
}

// cooldown returns how long a new digest of a tag waits; 0 for not at all.
func (r *Resolver) cooldown(host, name, tag string) time.Duration {
	for _, one := range r.o.Cooldowns {
		if (Rule{Repository: one.Repository, Tag: one.Tag}).matches(host, name, tag) {
			return one.For
		}
	}
	return 0
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

// fresh reports whether a tag is served without asking. After a freeze has ended
// its registry is asked, whatever the rule says.
func (r *Resolver) fresh(repo Repository, tag string, known index.Tag) bool {
	if known.Frozen != nil {
		return r.frozen(known)
	}
	rule := r.rule(repo, tag)
	age := r.o.Now().Sub(known.Asked()) // negative when the clock was set back
	return rule.Immutable || age >= 0 && age < rule.TTL
}

// freshList is fresh for a list that was confirmed the time age ago. A rule applies if
// it matches all tags of the repository; where tags are immutable, the list still
// grows.
func (r *Resolver) freshList(repo Repository, age time.Duration) bool {
	ttl := repo.TTL
	if rule := r.rule(repo, ""); !rule.Immutable {
		ttl = rule.TTL
	}
	return age >= 0 && age < ttl
}
