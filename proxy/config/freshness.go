package config

import (
	"errors"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Wait is a Duration that may be 0.
type Wait time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Wait) UnmarshalText(text []byte) error {
	if string(text) == "0" || string(text) == "0s" {
		*w = 0
		return nil
	}
	if err := (*Duration)(w).UnmarshalText(text); err != nil {
		return errors.New("want 0 or a duration, such as 10s")
	}
	return nil
}

// StaleFor is how long what is held is served while its registry fails.
type StaleFor struct {
	set bool
	d   time.Duration // negative for any time
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *StaleFor) UnmarshalText(text []byte) error {
	if string(text) == "unlimited" {
		*s = StaleFor{true, -1}
		return nil
	}
	var w Wait
	if err := w.UnmarshalText(text); err != nil {
		return errors.New("want unlimited, 0 or a duration, such as 24h")
	}
	*s = StaleFor{true, time.Duration(w)}
	return nil
}

// Public is the time for public content, without an end unless it was
// set. Negative means without an end.
func (s StaleFor) Public() time.Duration {
	if !s.set {
		return -1
	}
	return s.d
}

// Private is the time for what the box's credentials open, 0 unless it was set.
func (s StaleFor) Private() time.Duration { return s.d }

// TagRules are rules for tags: <repository>:<tag>=<duration or immutable>.
type TagRules []freshness.Rule

var errTagRule = errors.New("want rules separated by commas, such as *:latest=30s, registry.k8s.io/**=24h or library/*:v*=immutable")

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *TagRules) UnmarshalText(text []byte) (err error) {
	*t, err = list(text, parseTagRule)
	return err
}

// parseTagRule reads one rule. A colon behind the last slash stands before the
// tag; any other one belongs to a registry's port. Without a tag the rule is
// for all of them.
func parseTagRule(s string) (rule freshness.Rule, err error) {
	glob, ttl, ok := strings.Cut(s, "=")
	rule.Repository, rule.Tag = strings.TrimSpace(glob), "*"
	if i := strings.LastIndexByte(rule.Repository, ':'); i > strings.LastIndexByte(rule.Repository, '/') {
		rule.Repository, rule.Tag = rule.Repository[:i], rule.Repository[i+1:]
	}
	if !ok || rule.Repository == "" || rule.Tag == "" || !doublestar.ValidatePattern(rule.Repository) || !doublestar.ValidatePattern(rule.Tag) {
		return rule, errTagRule
	}
	if registry, rest, _ := strings.Cut(rule.Repository, "/"); upstream.Canonical(registry) == upstream.DockerHub && rest != "" {
		rule.Repository = upstream.DockerHub + "/" + rest
	}
	if ttl = strings.TrimSpace(ttl); ttl == "immutable" {
		rule.Immutable = true
		return rule, nil
	}
	var d Duration
	if err := d.UnmarshalText([]byte(ttl)); err != nil {
		return rule, errTagRule
	}
	rule.TTL = time.Duration(d)
	return rule, nil
}
