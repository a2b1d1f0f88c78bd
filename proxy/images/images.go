// Package images knows which images clients have pulled through this box, and how
// much of each is held: the list of images, the tree of one, and which images
// could be pulled if all registries failed. It knows neither HTTP nor how an
// image is fetched.
//
// An image is a tag or a digest that a client was given the manifest of, and has a
// platform for each manifest that it stands for: one, or those of an index.
//
// Files: images.go (the whole), pulls.go (what clients are given), uses.go (how often),
// layout.go (which layer is of which platform), records.go (the index), assess.go (what
// would be served in an outage, and what is missing), walk.go (all of them), settled.go
// (those that need no look), list.go (the list of images), tree.go (one image, and all
// digests held).
package images

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
	"hubcap/proxy/upstream"
)

const (
	// maxPairs bounds the images and platforms that are remembered. Those used
	// longest ago leave first, a twentieth at a time.
	maxPairs = 100_000
	// writeEvery is how often images and platforms that were not known are written
	// to the index, and each writeEach-th time all that has changed.
	writeEvery = 15 * time.Second
	writeEach  = 20
)

// Options is what Images need; every field but Pinned is required.
type Options struct {
	Upstreams *upstream.Set
	Pull      *pull.Puller
	Cache     *cache.Cache
	Ledger    *eviction.Ledger
	Index     *index.Index
	// Pinned reports whether an image is pinned. Nil where none is.
	Pinned func(reference.Reference) bool
	Days   int // for how long a pulled image is wanted
	Now    func() time.Time
	Log    *slog.Logger
}

// errNotConfigured says that a registry has been taken out of the configuration.
var errNotConfigured = errors.New("its registry is not configured")

// Images is what is known of the images that clients pull. Its methods are safe
// for concurrent use.
type Images struct {
	o       Options
	seed    maphash.Seed
	started time.Time
	// shards have the repositories, by the hash of their name. A map is not
	// changed but replaced, so that what a client is given is counted without a
	// lock; so are the maps and lists of a repository.
	shards [64]atomic.Pointer[map[repositoryKey]*repository]

	mu    sync.Mutex       // held while one of the maps and lists is replaced
	pairs int              // images and platforms; guarded by mu
	count int              // images that there ever were; guarded by mu
	gone  []index.PullName // forgotten, and still in the index; guarded by mu

	walking sync.Mutex // held during Walk
	walks   int        // number of walks; guarded by walking
	walk    atomic.Pointer[Summary]
}

// New returns Images that know what the index has. Run writes to it what is
// learned.
func New(o Options) *Images {
	m := &Images{o: o, seed: maphash.MakeSeed(), started: o.Now()}
	empty := make(map[repositoryKey]*repository)
	for i := range m.shards {
		m.shards[i].Store(&empty)
	}
	m.restore()
	return m
}

// Run writes what is learned to the index until ctx ends, and then what is left.
func (m *Images) Run(ctx context.Context) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			m.write(true)
			return
		case <-tick.C:
			m.write(n%writeEach == 0)
		}
	}
}

// Image is a row of the list of images.
type Image struct {
	Ref    string        `json:"ref"` // docker.io/library/nginx:1.27
	Digest digest.Digest `json:"digest,omitempty"`
	// State is that of a tag; empty for a digest, which is always answered alike.
	State freshness.TagState `json:"state,omitempty"`
	// FreshFor is for how many seconds a tag is answered without asking its
	// registry; absent where it is never asked.
	FreshFor  *int64     `json:"fresh_for_s,omitempty"`
	Pinned    bool       `json:"pinned"`
	Outage    Outage     `json:"outage,omitempty"` // empty for one that no client has pulled of late
	Why       string     `json:"why,omitempty"`    // of an image that is refused in an outage, or has gaps as a whole
	Served    string     `json:"served,omitempty"` // the earlier digest that would be served in an outage
	Used      time.Time  `json:"used,omitzero"`    // when a client was last given its manifest
	Pulls     int        `json:"pulls_30d"`
	Size      int64      `json:"size"`   // bytes of its platforms that are wanted or held in part; what they share counts once
	Held      int64      `json:"held"`   // of these
	Shared    int64      `json:"shared"` // of these, bytes that manifests of other images name too
	Platforms []Platform `json:"platforms"`
}

// Platform is one manifest that an image stands for, with what it needs.
type Platform struct {
	Platform string        `json:"platform"` // linux/arm64/v8; empty for what is no image of an index
	Digest   digest.Digest `json:"digest"`
	Wanted   bool          `json:"wanted"` // clients want it, or nothing is missing of it
	Size     int64         `json:"size"`   // bytes of manifest, config and layers; 0 where the manifest is not held
	Held     int64         `json:"held"`   // of these
	Used     time.Time     `json:"used,omitzero"`
	Pulls    int           `json:"pulls_30d"`
	Gaps     []Gap         `json:"gaps,omitempty"` // what is missing, wanted or not
}

// Outage is what would become of an image if all registries failed from now on.
type Outage string

// What would become of it.
const (
	Ready   Outage = "ready"   // each of its platforms that clients want could be pulled in full
	Gaps    Outage = "gaps"    // something of them is missing
	Refused Outage = "refused" // what is held may not be served then
)

// Part is what is missing.
type Part string

// The parts.
const (
	ManifestPart Part = "manifest"
	ConfigPart   Part = "config"
	LayerPart    Part = "layer"
)

// Gap is a part of an image that an outage would make unavailable.
type Gap struct {
	Part   Part          `json:"part"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes; negative where that is not known
	Why    Why           `json:"why"`
	At     time.Time     `json:"at,omitzero"` // when it was lost
}

// Why says why a part is missing.
type Why string

// The reasons.
const (
	Evicted      Why = "evicted"
	Wrong        Why = "wrong on disk"
	TooLarge     Why = "above HUBCAP_MAX_BLOB"
	NeverFetched Why = "never fetched"
	Moved        Why = "the tag has moved, the new image was never pulled"
	LostBefore   Why = "not held when hubcap started"
	Hidden       Why = "held, but not shown in this repository"
	NotVerified  Why = "held, but not verified of late"
)
