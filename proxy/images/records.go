package images

import (
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// maxPlatforms is how many platforms of an image are written to the index, those
// used last.
const maxPlatforms = 24

// restore reads what the index has.
func (m *Images) restore() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r, err := range m.o.Index.Pulled() {
		if err != nil {
			m.o.Log.Warn("not all of what was pulled is known: the index failed", "err", err)
			return
		}
		one := m.addLocked(r.Registry, r.Repository, r.Name)
		one.restore(r.Uses)
		one.asked.Store(r.Last)
		one.added.Store(true)
		if r.Digest != "" {
			one.named.Store(&r.Digest)
			one.pulled.Store(&r.Digest)
		}
		platforms := make(map[string]*platform, len(r.Platforms))
		for key, u := range r.Platforms {
			platforms[key] = new(platform)
			platforms[key].restore(u)
		}
		one.platforms.Store(&platforms)
		m.pairs += len(platforms)
	}
}

// write writes to the index the images of which something is learned, or of all
// that have changed, and forgets those that were only asked about.
func (m *Images) write(all bool) {
	now := m.o.Now().Unix()
	batch := make(map[index.PullName]*index.Pulled)
	for _, one := range m.all() {
		if asked := one.asked.Load(); now-asked > recentFor {
			one.layout.Store(nil)
			if one.last.Load() == 0 && !one.added.Load() {
				m.forget(one)
				continue
			}
		}
		if one.last.Load() == 0 && !one.added.Load() {
			continue
		}
		if one.learned.Swap(false) || all && one.changed.Load() {
			one.changed.Store(false)
			batch[one.pullName()] = one.record()
		}
	}
	m.mu.Lock()
	for _, name := range m.gone {
		if _, again := batch[name]; !again {
			batch[name] = nil
		}
	}
	m.gone = nil
	m.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	if err := m.o.Index.PutPulled(batch); err != nil {
		m.o.Log.Debug("what was pulled is known from memory only", "err", err)
	}
}

// forget forgets an image.
func (m *Images) forget(one *image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgetLocked(one)
}

func (i *image) pullName() index.PullName {
	return index.PullName{Registry: i.registry, Repository: i.name, Name: nameOf(i.reference())}
}

// record returns what the index is to know of the image.
func (i *image) record() *index.Pulled {
	r := &index.Pulled{Uses: index.Uses{Last: i.last.Load(), Days: i.fold()}, Platforms: make(map[string]index.Uses)}
	r.Digest = i.current()
	platforms := *i.platforms.Load()
	keys := slices.SortedFunc(maps.Keys(platforms), func(a, b string) int { return int(platforms[b].last.Load() - platforms[a].last.Load()) })
	for _, key := range keys[:min(len(keys), maxPlatforms)] {
		p := platforms[key]
		r.Platforms[key] = index.Uses{Last: p.last.Load(), Days: p.fold()}
	}
	return r
}

// restore takes what the index has.
func (u *uses) restore(known index.Uses) {
	u.last.Store(known.Last)
	u.days = known.Days
}

// current returns what the image named when it was last pulled; empty where that is
// not known.
func (i *image) current() digest.Digest {
	if d := i.pulled.Load(); d != nil {
		return *d
	}
	return ""
}
