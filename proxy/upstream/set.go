package upstream

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/metrics"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/credentials"
)

// Upstream is one registry as it is configured.
type Upstream struct {
	Host      string  // its name: docker.io, ghcr.io, europe-docker.pkg.dev
	Anonymous *Client // asks without credentials
	Own       *Client // asks with the box's credentials, for repositories in no part; nil without such credentials
	Relay     *Client // asks with a client's own token, by As; nil unless Passthrough
	TagTTL    time.Duration
	Rules

	parts []part
}

// part is a group of repositories that have credentials of their own.
type part struct {
	repositories []string // globs
	own          *Client
}

// OwnOf returns the client that asks for a repository with the box's
// credentials; nil without credentials for it.
func (u *Upstream) OwnOf(repository string) *Client {
	for _, p := range u.parts {
		if matches(p.repositories, repository) {
			return p.own
		}
	}
	return u.Own
}

// Owns returns the clients that ask with the box's credentials, for any
// repository.
func (u *Upstream) Owns() (all []*Client) {
	if u.Own != nil {
		all = append(all, u.Own)
	}
	for _, p := range u.parts {
		all = append(all, p.own)
	}
	return all
}

// checkRedirect returns an error if a redirect of the registry at base leads to
// one of its repositories that may not be pulled: the operator's rules hold for
// it as for the repository that was requested. A nil Upstream has no rules.
func (u *Upstream) checkRedirect(to, base *url.URL) error {
	if u == nil || !sameOrigin(to, base) {
		return nil
	}
	if name, ok := repositoryOf(to.Path, base.Path); ok && !u.Allows(name) {
		return fmt.Errorf("%w: a redirect to the repository %s, which ALLOW or DENY excludes", errRefused, name)
	}
	return nil
}

// follower returns the client that asks for a repository to which c was
// redirected. The box's credentials are used there only if they are shared for
// it; what is public needs none.
func (u *Upstream) follower(c *Client, repository string) *Client {
	if u == nil || c.login == nil || u.Shares(repository) && u.OwnOf(repository) == c {
		return c
	}
	return u.Anonymous
}

// Rules are which repositories of a registry may be pulled, and for whom. The
// globs are doublestar's, matched against the repository's name.
type Rules struct {
	Visibility         Visibility
	SharedRepositories []string
	Allow              []string // all when empty
	Deny               []string // takes precedence over Allow
}

// Allows reports whether the operator lets a repository be pulled.
func (r Rules) Allows(repository string) bool {
	return !matches(r.Deny, repository) && (len(r.Allow) == 0 || matches(r.Allow, repository))
}

// Shares reports whether every client may pull a repository with the box's
// credentials.
func (r Rules) Shares(repository string) bool {
	return r.Visibility == Shared && matches(r.SharedRepositories, repository)
}

// matches reports whether one of the globs, which are valid, matches the
// repository.
func matches(globs []string, repository string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, repository) })
}

// Visibility is who may pull a registry's content.
type Visibility uint8

// The visibilities.
const (
	Public      Visibility = iota // only what an anonymous client could pull
	Shared                        // also the shared repositories, with the box's credentials
	Passthrough                   // each client what the registry lets that client pull
)

// Entry is the configuration of an Upstream. A Host that begins with "*."
// stands for every name with one more label.
type Entry struct {
	Host   string
	TagTTL time.Duration
	Rules
	Parts []Part // repositories with other credentials; the first that matches counts
	Options
}

// Part is a group of repositories, by globs, and their credentials.
type Part struct {
	Repositories []string
	Login        credentials.Login
}

// HasLogin reports whether there are credentials for any repository.
func (e Entry) HasLogin() bool { return e.LogsIn() || len(e.Parts) > 0 }

// DockerHub is the name of Docker Hub in a Set, under whatever alias it is
// requested.
const DockerHub = "docker.io"

// aliases are the other names of one registry.
var aliases = map[string]string{
	"index.docker.io":      DockerHub,
	"registry-1.docker.io": DockerHub,
}

// Canonical returns the one spelling of a registry's name: in lower case,
// without port 443 and the trailing dot of a DNS name, aliases replaced.
func Canonical(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), ":443"), ".")
	if real, ok := aliases[name]; ok {
		return real
	}
	return name
}

// patternHosts is how many hosts that match patterns have clients at a time.
const patternHosts = 64

// Set is all registries that may be asked.
type Set struct {
	byHost   map[string]*Upstream
	patterns map[string]Entry // by what follows the first label, with the dot
	def      *Upstream

	mu   sync.Mutex // held while an Upstream of a pattern is made, so that there is one
	lazy *memory.Memory[string, *Upstream]
}

// NewSet makes the set of the entries, and has their metrics read its state.
// The host def, for requests that name no registry, must be among them.
func NewSet(entries []Entry, def string) (*Set, error) {
	s := &Set{
		byHost: make(map[string]*Upstream), patterns: make(map[string]Entry),
		lazy: memory.New[string, *Upstream](patternHosts, nil),
	}
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
	entries[0].Metrics.Watch(func() metrics.UpstreamStates { return statesOf(s.Status()) })
	return s, nil
}

// build makes the clients of an entry.
func (e Entry) build() *Upstream {
	u := &Upstream{Host: e.Host, TagTTL: e.TagTTL, Rules: e.Rules}
	e.hosts, e.upstream = newHosts(e.Options), u
	anonymous := e.Options
	anonymous.Login = credentials.Login{}
	u.Anonymous = NewClient(anonymous)
	own := func(l credentials.Login) *Client {
		o := e.Options
		o.Login = l
		c := NewClient(o)
		c.login.anonymous = u.Anonymous
		return c
	}
	if e.LogsIn() {
		u.Own = own(e.Login)
	}
	for _, p := range e.Parts {
		u.parts = append(u.parts, part{p.Repositories, own(p.Login)})
	}
	if e.Visibility == Passthrough {
		u.Relay = newClient(anonymous, identityClient)
	}
	return u
}

// Default returns the upstream for requests that name no registry, on ports
// without a default of their own.
func (s *Set) Default() *Upstream { return s.def }

// Find returns the upstream of a registry's name, in any spelling that
// Canonical knows. It makes no connection.
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
	s.lazy.Keep(name, u)
	return u, true
}

// isLabel reports whether s is a label of a DNS name (RFC 1123, 2.1) in lower
// case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}
