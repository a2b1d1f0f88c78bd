// Package purge removes images at the wish of an operator: tags with their history,
// their manifests, and the blobs that nothing else needs. It knows tags and what
// manifests name; it asks no registry.
//
// Files: purge.go (what an operator says, and what is done), plan.go (what nothing
// else needs).
package purge

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/proxy/freshness"
	"hubcap/proxy/reference"
)

// Cache holds manifests and blobs.
type Cache interface {
	Parts(d digest.Digest) (parts []content.Part, ok bool)
	NamedBy(d digest.Digest) []digest.Digest
	Purge(d digest.Digest, dryRun bool) (bytes int64, held bool)
}

// Tags knows tags.
type Tags interface {
	Known(registry, repository string) iter.Seq2[index.Name, index.Tag]
	Forget(name index.Name)
}

// Links knows which repositories restricted content may be had from.
type Links interface {
	Forget(registry, repository string, d digest.Digest)
}

// Options is what a Purger needs; every field but Kept and Forgotten is required.
type Options struct {
	Cache  Cache
	Tags   Tags
	Links  Links
	Pinned func(d digest.Digest) bool // reports whether a manifest or blob is pinned
	// Kept returns why a tag is to stay, pinned or frozen; empty where nothing says
	// so.
	Kept func(name index.Name) (why string)
	// Forgotten is called with the tags that were removed.
	Forgotten func(names []index.Name)
}

// Purger removes images. Its methods may be called at any time from any goroutine.
type Purger struct{ o Options }

// New returns a Purger.
func New(o Options) *Purger { return &Purger{o} }

// Request says what is to go. One of the first three is set.
type Request struct {
	// Ref is a full or short reference with a tag, or a digest, in which case it is
	// as Digest.
	Ref string `json:"ref,omitempty" maxLength:"600"`
	// Repository is a glob of repositories, or of their tags, as in freshness.Rule.
	Repository string `json:"repository,omitempty" maxLength:"600" doc:"Glob of repositories, or of their tags: library/*, ghcr.io/acme/**:pr-*"`
	// Digest is a manifest or blob. Tags that name it stay, and have it fetched again.
	Digest digest.Digest `json:"digest,omitempty" maxLength:"200" doc:"A manifest or blob, which goes even if something else names it"`
	DryRun bool          `json:"dry_run,omitempty" doc:"Say what would go, and remove nothing"`
	Force  bool          `json:"force,omitempty" doc:"Also what is pinned or frozen"`
}

// Result is what went, or would go.
type Result struct {
	DryRun  bool     `json:"dry_run,omitempty"`
	Tags    []string `json:"tags,omitempty"` // full references, sorted
	Objects int      `json:"objects"`        // manifests and blobs
	Bytes   int64    `json:"bytes"`
	Shared  int      `json:"shared"`         // objects that stay, as something else needs them
	Kept    []Kept   `json:"kept,omitempty"` // tags that stay although they match
}

// Kept is a tag or digest that stays, as it is pinned or frozen.
type Kept struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Why nothing is purged.
var (
	ErrRequest = errors.New("one of a reference, a repository and a digest is to be named")
	ErrUnknown = errors.New("there is nothing of it here")
	ErrKept    = errors.New("it is kept; force purges it all the same")
)

// Purge removes what a request names, and what nothing else needs then. The error is
// ErrRequest, ErrUnknown or ErrKept, or says what is wrong with the reference, glob or
// digest. The result is right for ErrKept too.
func (p *Purger) Purge(r Request) (Result, error) {
	find, err := r.parse()
	if err != nil {
		return Result{}, err
	}
	plan := p.plan(find, r.Force)
	result := Result{DryRun: r.DryRun, Kept: plan.kept, Shared: plan.shared}
	for _, name := range plan.names {
		if name.Kind == index.KindTag {
			result.Tags = append(result.Tags, refOf(name))
		}
	}
	slices.Sort(result.Tags)
	result.Tags = slices.Compact(result.Tags)
	if len(plan.names) == 0 && len(plan.kept) > 0 {
		return result, fmt.Errorf("%s: %w: %s", plan.kept[0].Name, ErrKept, plan.kept[0].Why)
	}
	p.remove(plan, r.DryRun, &result)
	if len(plan.names) == 0 && result.Objects == 0 {
		return result, ErrUnknown
	}
	return result, nil
}

// remove removes what a plan has, or counts it. Tags go first, so that none names what
// is gone.
func (p *Purger) remove(plan plan, dryRun bool, result *Result) {
	if !dryRun {
		for _, name := range plan.names {
			p.o.Tags.Forget(name)
		}
	}
	for _, d := range plan.objects {
		if size, held := p.o.Cache.Purge(d, dryRun); held {
			result.Objects++
			result.Bytes += size
		}
	}
	if dryRun {
		return
	}
	for _, name := range plan.names {
		for _, d := range plan.objects {
			if name.Restricted {
				p.o.Links.Forget(name.Registry, name.Repository, d)
			}
		}
	}
	if p.o.Forgotten != nil && len(plan.names) > 0 {
		p.o.Forgotten(plan.names)
	}
}

// finder is what a request looks for: names, or a digest.
type finder struct {
	matches func(index.Name) bool
	digest  digest.Digest
}

func (r Request) parse() (finder, error) {
	set := 0
	for _, one := range []string{r.Ref, r.Repository, r.Digest.String()} {
		if one != "" {
			set++
		}
	}
	if set != 1 {
		return finder{}, ErrRequest
	}
	switch {
	case r.Ref != "":
		return parseRef(r.Ref)
	case r.Repository != "":
		return parseGlob(r.Repository)
	default:
		return finder{digest: r.Digest}, r.Digest.Validate()
	}
}

func parseRef(s string) (finder, error) {
	ref, err := reference.Parse(s, reference.DockerHub)
	if err != nil {
		return finder{}, err
	}
	return finder{
		digest: ref.Digest,
		matches: func(n index.Name) bool {
			return ref.Digest == "" && n.Kind == index.KindTag && n.Name == ref.Tag && n.Registry == ref.Registry && n.Repository == ref.Repository
		},
	}, nil
}

// parseGlob reads the glob of a repository, and of a tag after a colon.
func parseGlob(glob string) (finder, error) {
	rule := freshness.Rule{Repository: glob, Tag: "*"}
	if i := strings.LastIndex(glob, ":"); i > strings.LastIndex(glob, "/") {
		rule.Repository, rule.Tag = glob[:i], glob[i+1:]
	}
	if rule.Repository == "" || rule.Tag == "" || !doublestar.ValidatePattern(rule.Repository) || !doublestar.ValidatePattern(rule.Tag) {
		return finder{}, fmt.Errorf("%q: %w", glob, doublestar.ErrBadPattern)
	}
	return finder{matches: rule.Matches}, nil
}

func refOf(n index.Name) string {
	return reference.Reference{Registry: n.Registry, Repository: n.Repository, Tag: n.Name}.String()
}
