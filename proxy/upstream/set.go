package upstream

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	lru "github.com/hashicorp/golang-lru/v2"

	"hubcap/proxy/upstream/credentials"
)

// Upstream is one registry as it is configured.
type Upstream struct {
	Host      string  // its name: docker.io, ghcr.io, europe-docker.pkg.dev
	Anonymous *Client // asks as anybody
	Own       *Client // asks with the box's credentials, where no part has others; nil when there are none
	Relay     *Client // asks as callers do, by As; nil but for Passthrough
	TagTTL    time.Duration
	Rules

	parts []part
}

// part is a part of the repositories with a client of its own.
type part struct {
	repositories []string // globs
	own          *Client
}

// OwnOf is who asks for a repository with the box's credentials; nil when there
// are none for it.
func (u *Upstream) OwnOf(repository string) *Client {
	for _, p := range u.parts {
		if slices.ContainsFunc(p.repositories, func(glob string) bool { return doublestar.MatchUnvalidated(glob, repository) }) {
			return p.own
		}
	}
	return u.Own
}

// Rules say which repositories of a registry may be pulled, and for whom. The
// globs are doublestar's, of the repository's name.
type Rules struct {
	Visibility         Visibility
	SharedRepositories []string
	Allow              []string // all when empty
	Deny               []string // before Allow
}

// Visibility says for whom a registry's content is.
type Visibility uint8

// The visibilities.
const (
	Public      Visibility = iota // what anybody could pull is for everybody, and there is nothing else
	Shared                        // so are the shared repositories, whoever could pull them
	Passthrough                   // each client has what the registry gives to that client
)

// Entry is how an Upstream is made. Host may begin with "*." and then stands
// for every name with one more label.
type Entry struct {
	Host   string
	TagTTL time.Duration
	Rules
	Parts []Part // that are pulled with other credentials; the first that matches counts
	Options
}

// Part is a part of a registry's repositories, by globs, and the credentials
// for it.
type Part struct {
	Repositories []string
	Login        credentials.Login
}

// HasLogin tells whether there are credentials for any repository.
func (e Entry) HasLogin() bool { return e.LogsIn() || len(e.Parts) > 0 }

// DockerHub is the name of Docker Hub in this set, whatever it is called in a
// request.
const DockerHub = "docker.io"

// aliases are the other names of one registry.
var aliases = map[string]string{
	"index.docker.io":      DockerHub,
	"registry-1.docker.io": DockerHub,
}

// Canonical is the one spelling of a registry's name: in lower case, without
// the standard port or the trailing dot of a DNS name, not by an alias.
func Canonical(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), ":443"), ".")
	if real, ok := aliases[name]; ok {
		return real
	}
	return name
}

// patternHosts bounds how many hosts behind patterns have a client at a time.
const patternHosts = 64

// Set is every registry there is. What is not in it does not exist.
type Set struct {
	byHost   map[string]*Upstream
	patterns map[string]Entry // by what follows the first label, with the dot
	def      *Upstream

	mu   sync.Mutex
	lazy *lru.Cache[string, *Upstream] // of patterns
}

// NewSet makes the set of the entries. The host def, which answers for
// requests that name no registry, must be among them.
func NewSet(entries []Entry, def string) (*Set, error) {
	lazy, err := lru.NewWithEvict(patternHosts, func(_ string, gone *Upstream) { gone.Anonymous.hosts.forget() })
	if err != nil {
		return nil, err
	}
	s := &Set{byHost: make(map[string]*Upstream), patterns: make(map[string]Entry), lazy: lazy}
	for _, e := range entries {
		if suffix, ok := strings.CutPrefix(e.Host, "*"); ok {
			s.patterns[suffix] = e
			continue
		}
		s.byHost[e.Host] = e.build()
	}
	found, ok := s.Find(def)
	if !ok {
		return nil, fmt.Errorf("the default upstream %q is not configured", def)
	}
	s.def = found
	return s, nil
}

// build makes the clients of an entry.
func (e Entry) build() *Upstream {
	u := &Upstream{Host: e.Host, TagTTL: e.TagTTL, Rules: e.Rules}
	e.hosts = newHosts(e.Options)
	anonymous := e.Options
	anonymous.Login = credentials.Login{}
	u.Anonymous = NewClient(anonymous)
	own := func(l credentials.Login) *Client {
		o := e.Options
		o.Login = l
		c := NewClient(o)
		c.login.anybody = u.Anonymous
		return c
	}
	if e.LogsIn() {
		u.Own = own(e.Login)
	}
	for _, p := range e.Parts {
		u.parts = append(u.parts, part{p.Repositories, own(p.Login)})
	}
	if e.Visibility == Passthrough {
		u.Relay = newClient(anonymous, "client")
	}
	return u
}

// Default answers for requests that name no registry, where the port has no
// default of its own.
func (s *Set) Default() *Upstream { return s.def }

// Find looks a registry's name up, in any spelling that Canonical knows. It
// connects to nothing.
func (s *Set) Find(name string) (*Upstream, bool) {
	name = Canonical(name)
	if u, ok := s.byHost[name]; ok {
		return u, true
	}
	label, rest, ok := strings.Cut(name, ".")
	if !ok || !isLabel(label) {
		return nil, false
	}
	e, ok := s.patterns["."+rest]
	if !ok {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.lazy.Get(name); ok {
		return u, true
	}
	e.Host = name
	e.URL = &url.URL{Scheme: "https", Host: name}
	u := e.build()
	s.lazy.Add(name, u)
	return u, true
}

// isLabel tells a label of a DNS name (RFC 1123, 2.1) in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}
