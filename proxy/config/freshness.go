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

// parseTagRule reads one rule.
func parseTagRule(s string) (rule freshness.Rule, err error) {
	var ttl string
	var ok bool
	if rule.Repository, rule.Tag, ttl, ok = parseForTags(s); !ok {
		return rule, errTagRule
	}
	if ttl == "immutable" {
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

// parseForTags reads <repository>:<tag>=<value>. A colon behind the last slash
// stands before the tag; any other one belongs to a registry's port. Without a
// tag the value is for all of them.
func parseForTags(s string) (repository, tag, value string, ok bool) {
	glob, value, ok := strings.Cut(s, "=")
	repository, tag = strings.TrimSpace(glob), "*"
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	}
	if !ok || repository == "" || tag == "" || !doublestar.ValidatePattern(repository) || !doublestar.ValidatePattern(tag) {
		return "", "", "", false
	}
	if registry, rest, _ := strings.Cut(repository, "/"); upstream.Canonical(registry) == upstream.DockerHub && rest != "" {
		repository = upstream.DockerHub + "/" + rest
	}
	return repository, tag, strings.TrimSpace(value), true
}

// Cooldowns are rules for tags: <repository>:<tag>=<duration or 0>.
type Cooldowns []freshness.Cooldown

var errCooldown = errors.New("want rules separated by commas, such as docker.io/**=48h or *:nightly=0")

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cooldowns) UnmarshalText(text []byte) (err error) {
	*c, err = list(text, func(s string) (one freshness.Cooldown, err error) {
		repository, tag, value, ok := parseForTags(s)
		var wait Wait
		if !ok || wait.UnmarshalText([]byte(value)) != nil {
			return one, errCooldown
		}
		return freshness.Cooldown{Repository: repository, Tag: tag, For: time.Duration(wait)}, nil
	})
	return err
}
