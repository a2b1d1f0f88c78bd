package freshness

import (
	"context"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"hubcap/proxy/upstream"
)

const (
	// several is how many repositories of one registry must be refused within
	// refusedFor, and none answered since, before the registry counts as
	// refusing everything; fewer where fewer are known, but at least two.
	several    = 3
	refusedFor = time.Minute
	// refusalsTold is how often the operator is told of it at most.
	refusalsTold = time.Minute
	// registriesKept bounds the registries about which something is known, and
	// repositoriesKept the repositories of each that may be asked about.
	registriesKept   = 256
	repositoriesKept = 16
)

// refusals tells a registry that refuses everything from one that refuses a
// repository. Docker Hub answered 401 for every public image for hours on
// 2025-09-24: each refusal was a correct answer, and none of them was true.
//
// When a public repository that was served before is refused, some others are
// asked for by HEAD, at most once in refusedFor. Its methods may be called at
// any time by anyone.
type refusals struct {
	now func() time.Time
	log *slog.Logger

	mu         sync.Mutex
	registries *lru.Cache[string, *registryRefusals]
}

// registryRefusals is what is known of one registry. The lock of refusals is
// for it too.
type registryRefusals struct {
	known   *lru.Cache[string, string] // public repositories that were served, each with a tag
	refused map[string]time.Time       // repositories, since one was last answered
	asked   time.Time                  // when others were last asked about
	told    time.Time
}

func newRefusals(now func() time.Time, log *slog.Logger) *refusals {
	registries, err := lru.New[string, *registryRefusals](registriesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &refusals{now: now, log: log, registries: registries}
}

// of returns what is known of a registry. r.mu is held.
func (r *refusals) of(host string) *registryRefusals {
	if one, ok := r.registries.Get(host); ok {
		return one
	}
	known, err := lru.New[string, string](repositoriesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	one := &registryRefusals{known: known, refused: make(map[string]time.Time)}
	r.registries.Add(host, one)
	return one
}

// knows notes that a tag of a public repository was served before.
func (r *refusals) knows(repo Repository, tag string) {
	if repo.Private != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(repo.Host).known.Add(repo.Name, tag)
}

// answered notes that a registry has answered about a repository.
func (r *refusals) answered(repo Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.of(repo.Host).refused)
}

// refused notes that a public repository that was served before is refused, and
// reports whether its registry refuses everything.
func (r *refusals) refused(ctx context.Context, repo Repository, err error) bool {
	if !Remembered(err) {
		r.note(repo.Host, repo.Name)
	}
	if !r.refusing(repo.Host) {
		r.askOthers(ctx, repo)
	}
	all := r.refusing(repo.Host)
	if all {
		r.tell(repo.Host, err)
	}
	return all
}

func (r *refusals) note(host, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(host).refused[name] = r.now()
}

// refusing reports whether a registry refuses everything at present.
func (r *refusals) refusing(host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.registries.Peek(host)
	if !ok {
		return false
	}
	for name, at := range one.refused {
		if age := r.now().Sub(at); age < 0 || age >= refusedFor {
			delete(one.refused, name)
		}
	}
	return len(one.refused) >= max(min(several, one.known.Len()), 2)
}

// askOthers asks about other repositories of a registry that has refused one,
// by HEAD, which costs no pull, until one is answered or several are refused.
func (r *refusals) askOthers(ctx context.Context, repo Repository) {
	for name, tag := range r.others(repo) {
		_, err := repo.Registry(ctx).HeadManifest(ctx, name, tag)
		switch {
		case isKind(err, upstream.Denied):
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
	all := make(map[string]string)
	names := one.known.Keys() // the latest last
	for i := len(names) - 1; i >= 0 && len(all) < several; i-- {
		if _, refused := one.refused[names[i]]; !refused {
			all[names[i]], _ = one.known.Peek(names[i])
		}
	}
	return all
}

func (r *refusals) tell(host string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.of(host)
	if now := r.now(); one.told.After(now) || now.Sub(one.told) >= refusalsTold {
		one.told = now
		r.log.Warn("all of "+host+" refuses: this counts as an outage, and what is held is served", "repositories", len(one.refused), "err", err)
	}
}
