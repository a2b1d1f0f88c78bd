package eviction

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/metrics"
)

// A synthetic site: images of several platforms, built on runtimes that are
// built on bases, so that they share layers; tags that move on; clients that
// keep layers and do not request those that they have. What is not said
// otherwise is log-normal or Zipf.

// siteOptions describes a site.
type siteOptions struct {
	bases, runtimes, repositories int
	days, pullsPerDay             int
	clients                       int
	arm                           float64 // share of the clients that pull linux/arm64
	ephemeral                     float64 // share of the pulls by clients that hold nothing (builds)
	once                          float64 // share of the pulls that are of an image nobody pulls again
	older                         float64 // share of the pulls of an earlier version
	updates                       float64 // a day and repository, at the most popular one
	zipf                          float64
	clientBytes                   int64 // layers that a client keeps
	seed                          uint64
}

// object is a blob or manifest.
type object struct {
	digest digest.Digest
	size   int64
}

// childImage is an image of one platform.
type childImage struct {
	manifest object
	parts    []object // its layers, the base first, and its config
	index    digest.Digest
}

func needed(objects []object) (parts []content.Part) {
	for _, o := range objects {
		parts = append(parts, content.Part{Digest: o.digest, Size: o.size, Role: content.RoleNeeded})
	}
	return parts
}

// version is an index with an image for each platform.
type version struct {
	index    object
	platform [2]*childImage
}

// visit is one request of a client for a manifest or blob.
type visit struct {
	at     time.Duration // since the beginning
	object object
	of     *childImage // of a layer: the image that it is pulled for
}

type site struct {
	visits []visit
	parts  map[digest.Digest][]object // of each manifest
	child  map[digest.Digest]*childImage
	edges  *content.Edges

	advised advised // nil if none is
}

// advised is an advisor.Capacity.
type advised interface {
	Saw(d digest.Digest, size int64, small, held, joined bool)
	Used(d digest.Digest, small bool)
	Fetched(d digest.Digest, size int64, small bool)
}

type noAdvice struct{}

func (noAdvice) Saw(digest.Digest, int64, bool, bool, bool) {}
func (noAdvice) Used(digest.Digest, bool)                   {}
func (noAdvice) Fetched(digest.Digest, int64, bool)         {}

type siteBuilder struct {
	siteOptions
	random  *rand.Rand
	objects int
}

func (b *siteBuilder) object(median, sigma float64) object {
	b.objects++
	size := min(math.Exp(math.Log(median)+sigma*b.random.NormFloat64()), 2<<30)
	return object{digest.FromString(fmt.Sprint(b.seed, b.objects)), int64(size) + 32}
}

func (b *siteBuilder) some(n int, median, sigma float64) (all []object) {
	for range n {
		all = append(all, b.object(median, sigma))
	}
	return all
}

// layered is a repository, a runtime or a base: the layers of its own at each
// platform, and what it is built on.
type layered struct {
	on     *layered
	own    [2][]object
	median float64
	past   []*version // the newest last
}

func (l *layered) layers(platform int) []object {
	if l.on == nil {
		return l.own[platform]
	}
	return slices.Concat(l.on.layers(platform), l.own[platform])
}

// rebuild replaces the layers from some place on.
func (b *siteBuilder) rebuild(l *layered, n int) {
	from := 0
	if l.own[0] != nil {
		from = b.random.IntN(len(l.own[0]))
	}
	for p := range l.own {
		if l.own[p] == nil {
			l.own[p] = b.some(n, l.median, 1.5)
			continue
		}
		l.own[p] = slices.Concat(l.own[p][:from], b.some(len(l.own[p])-from, l.median, 1.5))
	}
}

func (b *siteBuilder) publish(l *layered, s *site) {
	v := &version{index: b.object(1500, 0.3)}
	for p := range v.platform {
		c := &childImage{manifest: b.object(2000, 0.4)}
		c.parts = append(slices.Clone(l.layers(p)), b.object(6000, 0.6))
		s.parts[c.manifest.digest] = c.parts
		s.child[c.manifest.digest] = c
		s.parts[v.index.digest] = append(s.parts[v.index.digest], c.manifest)
		c.index = v.index.digest
		s.edges.Put(c.manifest.digest, needed(c.parts))
		v.platform[p] = c
	}
	l.past = append(l.past, v)
}

// zipf returns a function that draws from 0 to n-1.
func zipf(random *rand.Rand, n int, s float64) func() int {
	sum, sums := 0.0, make([]float64, n)
	for i := range sums {
		sum += math.Pow(float64(i+1), -s)
		sums[i] = sum
	}
	return func() int {
		at, _ := slices.BinarySearch(sums, random.Float64()*sum)
		return min(at, n-1)
	}
}

// client is what a client keeps.
type client struct {
	platform int
	held     map[digest.Digest]int64
	order    []object
	bytes    int64
}

func (c *client) keep(o object, limit int64) {
	c.held[o.digest] = o.size
	c.order = append(c.order, o)
	for c.bytes += o.size; c.bytes > limit && len(c.order) > 1; c.order = c.order[1:] {
		c.bytes -= c.order[0].size
		delete(c.held, c.order[0].digest)
	}
}

// newSite plays a site.
func newSite(o siteOptions) *site {
	b := &siteBuilder{siteOptions: o, random: rand.New(rand.NewPCG(o.seed, 7))}
	s := &site{parts: make(map[digest.Digest][]object), child: make(map[digest.Digest]*childImage), edges: content.NewEdges()}
	var bases, runtimes, repositories []*layered
	for range o.bases {
		l := &layered{median: 25 << 20}
		b.rebuild(l, 1+b.random.IntN(2))
		bases = append(bases, l)
	}
	of := zipf(b.random, o.bases, 1)
	for range o.runtimes {
		l := &layered{on: bases[of()], median: 6 << 20}
		b.rebuild(l, 2+b.random.IntN(4))
		runtimes = append(runtimes, l)
	}
	of = zipf(b.random, o.runtimes, 0.9)
	newRepository := func() *layered {
		l := &layered{on: runtimes[of()], median: 1 << 20}
		b.rebuild(l, 2+b.random.IntN(5))
		b.publish(l, s)
		return l
	}
	for range o.repositories {
		repositories = append(repositories, newRepository())
	}
	clients := make([]*client, o.clients)
	for i := range clients {
		clients[i] = &client{held: make(map[digest.Digest]int64)}
		if b.random.Float64() < o.arm {
			clients[i].platform = 1
		}
	}
	popular := zipf(b.random, o.repositories, o.zipf)
	for day := range o.days {
		for i, l := range slices.Concat(bases, runtimes) {
			every := 45
			if i >= len(bases) {
				every = 20
			}
			if b.random.IntN(every) == 0 {
				b.rebuild(l, 0)
			}
		}
		for i, l := range repositories {
			if b.random.Float64() < o.updates/math.Pow(float64(i+1), 0.3) {
				b.rebuild(l, 0)
				b.publish(l, s)
			}
		}
		for i := range o.pullsPerDay {
			l := repositories[popular()]
			if b.random.Float64() < o.once {
				l = newRepository()
			}
			v := l.past[len(l.past)-1]
			if b.random.Float64() < o.older {
				v = l.past[max(0, len(l.past)-2-int(b.random.ExpFloat64()*3))]
			}
			c := clients[b.random.IntN(len(clients))]
			if b.random.Float64() < o.ephemeral {
				c = &client{platform: c.platform, held: make(map[digest.Digest]int64)}
			}
			s.pull(24*time.Hour*time.Duration(day*o.pullsPerDay+i)/time.Duration(o.pullsPerDay), v, c, o.clientBytes)
		}
	}
	return s
}

// pull has a client pull a version.
func (s *site) pull(at time.Duration, v *version, c *client, limit int64) {
	image := v.platform[c.platform]
	request := func(o object, of *childImage) {
		if _, has := c.held[o.digest]; !has {
			s.visits = append(s.visits, visit{at, o, of})
			c.keep(o, limit)
		}
	}
	s.visits = append(s.visits, visit{at, v.index, nil})
	request(image.manifest, nil)
	config := len(image.parts) - 1
	request(image.parts[config], nil)
	for _, layer := range image.parts[:config] {
		request(layer, image)
	}
}

// cached is a way to keep objects.
type cached interface {
	use(d digest.Digest) (held bool) // notes a use
	holds(d digest.Digest) bool
	put(o object) // stores what is not held
}

// ledgerCached is the ledger, with a janitor that is never late.
// Both store nothing larger than a quarter of the limit.
type ledgerCached struct {
	*Ledger
	janitor *Janitor
}

func (l ledgerCached) use(d digest.Digest) bool { _, held := l.Touch(d); return held }

func (l ledgerCached) holds(d digest.Digest) bool { return l.Holds(d) }

func (l ledgerCached) put(o object) {
	if o.size <= l.limit/4 && l.janitor.Reserve(o.size) == nil {
		l.Commit(o.digest, o.size, o.size)
	}
	l.janitor.remove(l.Sweep())
}

// listCached is what the ledger is compared with: one list of the small objects,
// which have a share, and one of all others, without regard to images and sizes.
type listCached struct {
	small, large      *simplelru.LRU[digest.Digest, int64]
	used              [2]int64
	limit, smallLimit int64
}

func newListCached(t *testing.T, limit int64) *listCached {
	c := &listCached{limit: limit, smallLimit: int64(simulatedSmallShare * float64(limit))}
	for i, list := range []**simplelru.LRU[digest.Digest, int64]{&c.small, &c.large} {
		one, err := simplelru.NewLRU(math.MaxInt, func(_ digest.Digest, size int64) { c.used[i] -= size })
		if err != nil {
			t.Fatal(err)
		}
		*list = one
	}
	return c
}

func (c *listCached) use(d digest.Digest) bool {
	_, small := c.small.Get(d)
	_, large := c.large.Get(d)
	return small || large
}

func (c *listCached) holds(d digest.Digest) bool { return c.small.Contains(d) || c.large.Contains(d) }

func (c *listCached) put(o object) {
	size := onDisk(o.size)
	if o.size > c.limit/4 {
		return
	}
	used := func() float64 { return float64(c.used[0]+c.used[1]+size) / float64(c.limit) }
	for sweeping := used() > simulatedHigh; sweeping && used() > simulatedLow; {
		if c.used[0] > c.smallLimit || c.large.Len() == 0 {
			c.small.RemoveOldest()
		} else {
			c.large.RemoveOldest()
		}
	}
	if o.size < simulatedSmallSize {
		c.small.Add(o.digest, size)
		c.used[0] += size
	} else {
		c.large.Add(o.digest, size)
		c.used[1] += size
	}
}

// outcome is the result of a site.
type outcome struct {
	figures
	whole    float64 // images that are held whole, with their index, on the average of the second half
	upstream float64 // bytes fetched for each byte requested
}

// play plays a site: the rest of an image is fetched at the request of its first
// layer. imageUse is whether the use of a manifest is a use of all its parts.
func (s *site) play(c cached, now *time.Duration, imageUse bool) (o outcome) {
	a := s.advised
	if a == nil {
		a = noAdvice{}
	}
	var bytes, hits, hitBytes, fetched float64
	begun, requested := make(map[*childImage]bool), make(map[digest.Digest]time.Duration)
	days, checks := s.visits[len(s.visits)-1].at, 0
	get := func(one object, requested bool) {
		held, small := c.use(one.digest), one.size < simulatedSmallSize
		if requested {
			a.Saw(one.digest, one.size, small, held, false)
		}
		if held {
			if requested {
				hits, hitBytes = hits+1, hitBytes+float64(one.size)
			}
			return
		}
		fetched += float64(one.size)
		c.put(one)
		a.Fetched(one.digest, one.size, small)
	}
	for _, v := range s.visits {
		if v.at/(72*time.Hour) != *now/(72*time.Hour) && v.at > days/2 {
			checks++
			for image := range begun {
				if image.whole(c) {
					o.whole++
				}
			}
		}
		*now = v.at
		bytes += float64(v.object.size)
		get(v.object, true)
		if image := s.child[v.object.digest]; image != nil {
			begun[image], requested[v.object.digest] = false, v.at
		}
		if imageUse {
			s.use(c, v.object.digest, requested)
		}
		if v.of != nil && !begun[v.of] {
			begun[v.of] = true
			for _, p := range v.of.parts {
				if !c.holds(p.digest) {
					get(p, false)
				}
			}
		}
	}
	o.figures = figures{hits / float64(len(s.visits)), hitBytes / bytes}
	o.whole /= float64(checks)
	o.upstream = fetched / bytes
	return o
}

// use is what the cache does at the use of a manifest: the parts of an index are
// used that were requested within a week of each other.
func (s *site) use(c cached, manifest digest.Digest, requested map[digest.Digest]time.Duration) {
	const together = 7 * 24 * time.Hour
	var latest time.Duration
	for _, p := range s.parts[manifest] {
		latest = max(latest, requested[p.digest])
	}
	for _, p := range s.parts[manifest] {
		c.use(p.digest)
		if s.advised != nil {
			s.advised.Used(p.digest, p.size < simulatedSmallSize)
		}
		if latest-requested[p.digest] <= together {
			s.use(c, p.digest, nil)
		}
	}
}

func (i *childImage) whole(c cached) bool {
	for _, p := range i.parts {
		if !c.holds(p.digest) {
			return false
		}
	}
	return c.holds(i.manifest.digest) && c.holds(i.index)
}

// workingSet returns the bytes of all objects that are requested, each once.
func (s *site) workingSet() (bytes int64) {
	seen := make(map[digest.Digest]bool)
	for _, v := range s.visits {
		if !seen[v.object.digest] {
			seen[v.object.digest], bytes = true, bytes+v.object.size
		}
	}
	return bytes
}

// The sites: people who pull what they work with, builds that begin with nothing
// and make images that are pulled once, and hosts that ask again and again for
// tags whose images they have.
var sites = []struct {
	name string
	siteOptions
}{
	{"office", siteOptions{
		bases: 12, runtimes: 40, repositories: 250, days: 60, pullsPerDay: 200, clients: 50, arm: 0.2, ephemeral: 0.2,
		once: 0.03, older: 0.2, updates: 0.3, zipf: 0.8, clientBytes: 10 << 30, seed: 1,
	}},
	{"builds", siteOptions{
		bases: 12, runtimes: 40, repositories: 200, days: 60, pullsPerDay: 200, clients: 30, arm: 0.1, ephemeral: 0.8,
		once: 0.1, older: 0.1, updates: 0.4, zipf: 0.9, clientBytes: 10 << 30, seed: 2,
	}},
	{"hosts", siteOptions{
		bases: 8, runtimes: 30, repositories: 150, days: 60, pullsPerDay: 500, clients: 60, arm: 0.3, ephemeral: 0.02,
		once: 0.01, older: 0.1, updates: 0.3, zipf: 0.7, clientBytes: 30 << 30, seed: 3,
	}},
}

// TestSites compares, on synthetic sites, the ledger with lists of blobs, without
// and with the rule that the use of a manifest is a use of its parts. With -v it
// plays all sites with all budgets and prints the table: a minute of CPU time.
func TestSites(t *testing.T) {
	budgets, some := []float64{0.20}, sites[:1]
	switch {
	case testing.Verbose():
		budgets, some = []float64{0.05, 0.10, 0.20, 0.40}, sites
	case testing.Short():
		t.Skip("it takes seconds")
	}
	for _, one := range some {
		t.Run(one.name, func(t *testing.T) {
			s := newSite(one.siteOptions)
			workingSet := s.workingSet()
			t.Logf("%d requests, %.0f GB", len(s.visits), float64(workingSet)/1e9)
			t.Log("budget  rule         objects  bytes   whole images  upstream")
			for _, budget := range budgets {
				limit := int64(budget * float64(workingSet))
				var now time.Duration
				log := func(rule string, o outcome) {
					t.Logf("%4.0f %%  %-11s  %.4f   %.4f  %12.0f  %8.3f", 100*budget, rule, o.objects, o.bytes, o.whole, o.upstream)
				}
				blobs := s.play(newListCached(t, limit), &now, false)
				log("blobs", blobs)
				if testing.Verbose() {
					log("uses", s.play(newListCached(t, limit), &now, true))
				}
				l := NewLedger(LedgerOptions{
					Limit: limit, SmallSize: simulatedSmallSize, SmallShare: simulatedSmallShare,
					High: simulatedHigh, Low: simulatedLow, Metrics: metrics.New().Space,
					Now: func() time.Time { return time.Unix(0, 0).Add(now) },
				})
				l.KeepWhole(s.edges)
				got := s.play(ledgerCached{l, newTestJanitor(l, math.MaxInt64, l.unlinkNow)}, &now, true)
				log("ledger", got)
				if got.objects < blobs.objects-0.01 || got.bytes < blobs.bytes-0.0125 {
					t.Errorf("%.0f %%: the hit ratio is worse by more than a point", 100*budget)
				}
				if budget == 0.20 && got.whole < 1.25*blobs.whole {
					t.Errorf("%.0f %%: %.0f whole images, want a quarter more than %.0f", 100*budget, got.whole, blobs.whole)
				}
			}
		})
	}
}
