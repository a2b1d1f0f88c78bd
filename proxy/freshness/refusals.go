package freshness

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream"
)

const (
	// several is how many repositories of one registry must be refused within
	// refusedFor, with no answer about any since, before the registry counts as
	// refusing everything; fewer where fewer are known, but at least two.
	several    = 3
	refusedFor = time.Minute
	// registriesKept bounds how many registries are remembered, and
	// repositoriesKept how many repositories of each may be asked about.
	registriesKept   = 256
	repositoriesKept = 16
)

// refusals distinguishes a registry that refuses everything from one that
// refuses a repository. On 2025-09-24, Docker Hub answered 401 for every public
// image for hours: each refusal was a valid answer, and none was true.
//
// When a public repository that was served before is refused, some others are
// asked about by HEAD, at most once in refusedFor. Its methods are safe for
// concurrent use.
type refusals struct {
	now  func() time.Time
	log  *slog.Logger
	last atomic.Int64 // when a refusal was last noted, nanoseconds since 1970; 0 for never

	mu         sync.Mutex
	registries *memory.Memory[string, *registryRefusals]
}

// registryRefusals is what is known of one registry, under the lock of refusals.
type registryRefusals struct {
	known   *memory.Memory[string, string] // public repositories that were served, each with a tag
	refused map[string]time.Time           // repositories that were refused since one was last answered
	asked   time.Time                      // when others were last asked about
	warning logging.Throttle
}

func newRefusals(now func() time.Time, log *slog.Logger) *refusals {
	return &refusals{now: now, log: log, registries: memory.New[string, *registryRefusals](registriesKept, nil)}
}

// of returns what is known of a registry. r.mu is held.
func (r *refusals) of(host string) *registryRefusals {
	one, ok := r.registries.Get(host)
	if !ok {
		one = &registryRefusals{known: memory.New[string, string](repositoriesKept, nil), refused: make(map[string]time.Time)}
		r.registries.Keep(host, one)
	}
	return one
}

// knows records that a tag was served before, if its repository is public.
func (r *refusals) knows(repo Repository, tag string) {
	if repo.Restricted != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(repo.Host).known.Keep(repo.Name, tag)
}

// answered records that a registry has answered about a repository.
func (r *refusals) answered(repo Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.of(repo.Host).refused)
}

// refused records that a public repository that was served before is refused,
// and reports whether its registry refuses everything.
func (r *refusals) refused(ctx context.Context, repo Repository, err error) bool {
	if !Remembered(err) {
		r.note(repo.Host, repo.Name)
	}
	if !r.refusing(repo.Host) {
		r.askOthers(ctx, repo)
	}
	all := r.refusing(repo.Host)
	if all {
		r.warn(repo.Host, err)
	}
	return all
}

func (r *refusals) note(host, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.of(host).refused[name] = now
	r.last.Store(now.UnixNano())
}

// refusing reports whether a registry refuses everything at present. It is
// called for every manifest, and takes no lock while no registry refuses
// anything.
func (r *refusals) refusing(host string) bool {
	if last := r.last.Load(); last == 0 || r.now().UnixNano()-last >= int64(refusedFor) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.registries.Get(host)
	return ok && r.refusesAll(one)
}

// refusesAll reports whether a registry refuses everything at present. r.mu is
// held.
func (r *refusals) refusesAll(one *registryRefusals) bool {
	now := r.now()
	maps.DeleteFunc(one.refused, func(_ string, at time.Time) bool { return at.After(now) || now.Sub(at) >= refusedFor })
	return len(one.refused) >= max(min(several, one.known.Len()), 2)
}

// all returns the registries that refuse everything at present.
func (r *refusals) all() (all []RefusingRegistry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for host, one := range r.registries.All() {
		if r.refusesAll(one) {
			all = append(all, RefusingRegistry{host, slices.Sorted(maps.Keys(one.refused))})
		}
	}
	return all
}

// askOthers asks a registry that has refused a repository about others, by HEAD,
// which costs no pull, until one is answered or several are refused.
func (r *refusals) askOthers(ctx context.Context, repo Repository) {
	for name, tag := range r.others(repo) {
		_, err := repo.Registry(ctx).HeadManifest(ctx, name, tag)
		switch {
		case upstream.IsKind(err, upstream.Denied):
			r.note(repo.Host, name)
		case err == nil:
			r.answered(repo)
			return
		}
		if r.refusing(repo.Host) {
			return
		}
	}
}

// others returns the repositories that may be asked about now, each with a tag.
func (r *refusals) others(repo Repository) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.of(repo.Host)
	if now := r.now(); one.asked.After(now) || now.Sub(one.asked) >= refusedFor {
		one.asked = now
	} else {
		return nil
	}
	tags := maps.Collect(one.known.All())
	others := make(map[string]string)
	for _, name := range slices.Backward(one.known.Keys()) { // the latest first
		if _, refused := one.refused[name]; !refused && len(others) < several {
			others[name] = tags[name]
		}
	}
	return others
}

func (r *refusals) warn(host string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.of(host); one.warning.Allow(r.now()) {
		r.log.Warn("all of "+host+" refuses: this counts as an outage, and held content is served", "repositories", len(one.refused), "err", err)
	}
}
