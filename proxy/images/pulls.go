package images

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
)

const (
	// recentKept is how many of the images of a repository that were asked for
	// last are looked at when it is asked for a manifest by digest, or for a layer.
	recentKept = 16
	// recentFor is for how many seconds after its manifest was asked for a layer may
	// belong to a pull of the image.
	recentFor = 3600
	// headFor is for how many seconds after a HEAD of a tag a GET of the digest
	// that it named belongs to it: containerd resolves a tag by HEAD.
	headFor = 60
)

// Answer is what a client was given at a mirror port, or told of by HEAD.
type Answer struct {
	Registry, Repository string
	Tag                  string        // empty where it was asked for by digest
	Digest               digest.Digest // of the manifest or blob
	Blob, Head           bool
}

type repositoryKey struct{ registry, name string }

// repository is one that images were pulled from.
type repository struct {
	repositoryKey
	images atomic.Pointer[map[string]*image] // by tag, or by digest
	recent atomic.Pointer[[]*image]          // those asked for last, the last first, to the minute
}

// image is a tag or a digest that a client was given the manifest of, or that the
// box has fetched of itself. It is one that was only asked about by HEAD while
// uses.last is 0 and added is false.
type image struct {
	*repository
	tag string
	of  digest.Digest // where tag is empty

	number int // in the order in which images became known
	uses       // of its manifest

	added     atomic.Bool                          // by Add
	asked     atomic.Int64                         // when a client last asked for it, seconds since 1970
	named     atomic.Pointer[digest.Digest]        // what it named then
	pulled    atomic.Pointer[digest.Digest]        // what it named when its manifest was last given, not by HEAD
	platforms atomic.Pointer[map[string]*platform] // those that clients have asked a layer of, by key; see layout
	layout    atomic.Pointer[layout]               // nil where it is not known

	learned atomic.Bool // something that was not known, and is not in the index yet
	changed atomic.Bool // since it was written
	open    atomic.Bool // something has been learned since settled was set
	settled atomic.Pointer[settled]
	verdict atomic.Pointer[verdict]
}

// platform is a manifest of an image that clients have asked a layer of.
type platform struct{ uses }

// reference returns the name of the image.
func (i *image) reference() reference.Reference {
	return reference.Reference{Registry: i.registry, Repository: i.name, Tag: i.tag, Digest: i.of}
}

// request returns the image as a client asks for it.
func (i *image) request() pull.Reference { return pull.Reference{Tag: i.tag, Digest: i.of} }

// Given notes what a client was given. A manifest that is given by a tag that is
// known costs neither a lock nor an allocation.
func (m *Images) Given(a Answer) {
	at := m.o.Now().Unix()
	switch {
	case a.Blob && !a.Head:
		m.layerGiven(a, at)
	case a.Blob:
	case a.Tag != "":
		m.given(m.imageOf(a, a.Tag), a, at)
	default:
		m.givenByDigest(a, at)
	}
}

// given notes that an image was asked for, and given unless that was by HEAD. A
// HEAD alone is a use of an image that was given before: it is how containerd
// finds that it has the image.
func (m *Images) given(one *image, a Answer, at int64) {
	if before := one.asked.Load(); before != at {
		one.asked.Store(at)
		if at-before >= headFor || at < before {
			m.askedAgain(one)
		}
	}
	if known := one.named.Load(); known == nil || *known != a.Digest {
		m.names(one, a.Digest)
	}
	switch {
	case !a.Head:
		if known, named := one.pulled.Load(), one.named.Load(); known == nil || *known != *named {
			one.pulled.Store(named)
			one.learned.Store(true)
		}
		one.used(at, 1)
	case one.last.Load() > 0:
		one.used(at, 0)
	}
	if !one.changed.Load() {
		one.changed.Store(true)
	}
}

// givenByDigest notes a manifest that was asked for by digest. It is that of a tag
// which was just resolved, or of a platform of an image that is being pulled, or an
// image of its own.
func (m *Images) givenByDigest(a Answer, at int64) {
	if repo := m.find(a); repo != nil {
		recent := *repo.recent.Load()
		for _, one := range recent {
			if d := one.named.Load(); one.tag != "" && at-one.asked.Load() <= headFor && d != nil && *d == a.Digest {
				m.given(one, a, at)
				return
			}
		}
		if !a.Head && m.platformGiven(recent, a.Digest, at) {
			return
		}
	}
	m.given(m.imageOf(a, a.Digest.String()), a, at)
}

// platformGiven notes that the manifest d of an index was given, and reports
// whether it belongs to one of these images.
func (m *Images) platformGiven(recent []*image, d digest.Digest, at int64) bool {
	for _, one := range recent {
		if at-one.asked.Load() > recentFor {
			continue
		}
		l := m.layoutOf(one)
		key, child := l.children[d]
		if !child {
			continue
		}
		if l.incomplete {
			one.layout.Store(nil) // what this manifest names was not known
		}
		if p := (*one.platforms.Load())[key]; p != nil {
			p.used(at, 1)
			one.changed.Store(true)
		}
		return true
	}
	return false
}

// layerGiven notes that a client asked for a blob: the platforms that it is a
// layer of are wanted.
func (m *Images) layerGiven(a Answer, at int64) {
	repo := m.find(a)
	if repo == nil {
		return
	}
	for _, one := range *repo.recent.Load() {
		if at-one.asked.Load() > recentFor {
			continue
		}
		for _, key := range m.layoutOf(one).layers[a.Digest] {
			if p := (*one.platforms.Load())[key]; p != nil {
				p.used(at, 0)
				continue
			}
			m.want(one, key).used(at, 1)
		}
	}
}

// Add notes an image that the box has fetched although no client has asked for
// it. It is listed, and not wanted in an outage.
func (m *Images) Add(r reference.Reference) {
	a := Answer{Registry: r.Registry, Repository: r.Repository, Digest: r.Digest}
	one := m.imageOf(a, nameOf(r))
	if !one.added.Swap(true) {
		one.learned.Store(true)
	}
}

// nameOf returns the tag of a reference, or its digest, which decides.
func nameOf(r reference.Reference) string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// find returns the repository that was asked; nil if no image of it is known.
func (m *Images) find(a Answer) *repository {
	return (*m.shard(a.Repository).Load())[repositoryKey{a.Registry, a.Repository}]
}

func (m *Images) shard(repository string) *atomic.Pointer[map[repositoryKey]*repository] {
	return &m.shards[maphash.String(m.seed, repository)%uint64(len(m.shards))]
}

// imageOf returns the image with a name in the repository that was asked, which
// becomes known.
func (m *Images) imageOf(a Answer, name string) *image {
	if repo := m.find(a); repo != nil {
		if one := (*repo.images.Load())[name]; one != nil {
			return one
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addLocked(a.Registry, a.Repository, name)
}

// addLocked returns the image with a name in a repository, which becomes known.
// m.mu is held.
func (m *Images) addLocked(registry, name, tag string) *image {
	shard := m.shard(name)
	key := repositoryKey{registry, name}
	repo := (*shard.Load())[key]
	if repo == nil {
		repo = &repository{repositoryKey: repositoryKey{strings.Clone(registry), strings.Clone(name)}}
		repo.images.Store(&map[string]*image{})
		repo.recent.Store(new([]*image))
		replace(shard, func(all map[repositoryKey]*repository) { all[repo.repositoryKey] = repo })
	}
	if one := (*repo.images.Load())[tag]; one != nil {
		return one
	}
	tag = strings.Clone(tag)
	m.count++
	one := &image{repository: repo, tag: tag, number: m.count}
	if d := digest.Digest(tag); d.Validate() == nil { // a tag has no colon
		one.tag, one.of = "", d
	}
	one.platforms.Store(&map[string]*platform{})
	replace(&repo.images, func(all map[string]*image) { all[tag] = one })
	m.pairs++
	m.boundLocked(one)
	return one
}

// askedAgain makes an image the first of those asked for last.
func (m *Images) askedAgain(one *image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := append([]*image{one}, slices.DeleteFunc(slices.Clone(*one.recent.Load()), func(other *image) bool { return other == one })...)
	recent = recent[:min(len(recent), recentKept)]
	one.recent.Store(&recent)
}

// names notes what an image names now. Of one that is no index, its manifest is
// its own platform, and wanted.
func (m *Images) names(one *image, d digest.Digest) {
	d = digest.Digest(strings.Clone(d.String()))
	one.named.Store(&d)
	one.layout.Store(nil)
	one.open.Store(true)
	if parts, held := m.o.Cache.Parts(d); held && !isIndex(parts) {
		m.want(one, "")
	}
}

// want returns a platform of an image, which becomes known.
func (m *Images) want(one *image, key string) *platform {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := (*one.platforms.Load())[key]; p != nil {
		return p
	}
	p := new(platform)
	replace(&one.platforms, func(all map[string]*platform) { all[key] = p })
	one.learned.Store(true)
	one.open.Store(true)
	m.pairs++
	return p
}

// replace replaces a map by a changed copy. m.mu is held.
func replace[K comparable, V any](at *atomic.Pointer[map[K]V], change func(map[K]V)) {
	next := maps.Clone(*at.Load())
	change(next)
	at.Store(&next)
}

// all returns all images.
func (m *Images) all() (all []*image) {
	for i := range m.shards {
		for _, repo := range *m.shards[i].Load() {
			all = slices.AppendSeq(all, maps.Values(*repo.images.Load()))
		}
	}
	return all
}

// boundLocked forgets the images asked for longest ago, if there are too many, and
// not the one that was just added. m.mu is held.
func (m *Images) boundLocked(added *image) {
	if m.pairs <= maxPairs {
		return
	}
	all := m.all()
	slices.SortFunc(all, func(a, b *image) int { return int(a.asked.Load() - b.asked.Load()) })
	for _, one := range all {
		if m.pairs <= maxPairs-maxPairs/20 {
			return
		}
		if one != added {
			m.forgetLocked(one)
		}
	}
}

// forgetLocked forgets an image. m.mu is held.
func (m *Images) forgetLocked(one *image) {
	name := nameOf(one.reference())
	if (*one.images.Load())[name] != one {
		return
	}
	m.pairs -= 1 + len(*one.platforms.Load())
	replace(&one.images, func(all map[string]*image) { delete(all, name) })
	recent := slices.DeleteFunc(slices.Clone(*one.recent.Load()), func(other *image) bool { return other == one })
	one.recent.Store(&recent)
	if len(*one.images.Load()) == 0 {
		replace(m.shard(one.name), func(all map[repositoryKey]*repository) { delete(all, one.repositoryKey) })
	}
	m.gone = append(m.gone, one.pullName())
}
