package freshness

import (
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// Rule says how long tags are answered without asking. The first rule that
// matches a tag counts.
type Rule struct {
	// Repository is a doublestar glob of the repository's name, which begins
	// with its registry: registry.k8s.io/**. One that does not begin with a
	// registry's name matches in all registries: library/*. "*" alone
	// matches everything. Docker Hub is docker.io here, and its
	// library/nginx is matched by nginx too.
	Repository string
	Tag        string        // a glob
	TTL        time.Duration // ignored where Immutable
	Immutable  bool          // never ask again
}

// matches tells whether the rule is for a tag of a repository.
func (r Rule) matches(host, name, tag string) bool {
	if r.Repository != "*" && !r.names(host, name) {
		short, official := strings.CutPrefix(name, "library/")
		if !official || host != upstream.DockerHub || !r.names(host, short) {
			return false
		}
	}
	return doublestar.MatchUnvalidated(r.Tag, tag)
}

// names tells whether the rule is for a repository of that name.
func (r Rule) names(host, name string) bool {
	if first, _, _ := strings.Cut(r.Repository, "/"); strings.ContainsAny(first, ".:") {
		name = host + "/" + name
	}
	return doublestar.MatchUnvalidated(r.Repository, name)
}

// rule is the first that matches a tag, or else the repository's own.
func (r *Resolver) rule(repo Repository, tag string) Rule {
	for _, rule := range r.rules {
		if rule.matches(repo.Host, repo.Name, tag) {
			return rule
		}
	}
	return Rule{TTL: repo.TTL}
}

// fresh tells whether a tag that was confirmed an age ago is answered without
// asking. An age below zero comes of a clock that was set back.
func (r *Resolver) fresh(repo Repository, tag string, age time.Duration) bool {
	rule := r.rule(repo, tag)
	return rule.Immutable || age >= 0 && age < rule.TTL
}

// freshList is fresh for what a repository lists: under the rule for all of its
// tags. Where these never move, others still come.
func (r *Resolver) freshList(repo Repository, age time.Duration) bool {
	ttl := repo.TTL
	if rule := r.rule(repo, ""); !rule.Immutable {
		ttl = rule.TTL
	}
	return age >= 0 && age < ttl
}
