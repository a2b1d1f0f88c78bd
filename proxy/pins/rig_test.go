package pins

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const (
	mib     = 1 << 20
	budget  = 100 * mib
	maxBlob = 30 * mib
)

var (
	start   = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	errDown = errors.New("the registry is down")
)

// fakeIndex is an index that outlives the Pins above it.
type fakeIndex struct {
	pins map[index.PinName]index.Pin
	tags map[index.Name]index.Tag
	err  error // of changes
}

func (x *fakeIndex) Tag(name index.Name) (index.Tag, bool, error) {
	tag, ok := x.tags[name]
	return tag, ok, nil
}

func (x *fakeIndex) Pins() iter.Seq2[index.PinRecord, error] {
	return func(yield func(index.PinRecord, error) bool) {
		for name, one := range x.pins {
			if !yield(index.PinRecord{PinName: name, Pin: one}, nil) {
				return
			}
		}
	}
}

func (x *fakeIndex) PutPins(all ...index.PinRecord) error {
	for _, one := range all {
		if x.err == nil {
			x.pins[one.PinName] = one.Pin
		}
	}
	return x.err
}

func (x *fakeIndex) DeletePins(all ...index.PinName) error {
	for _, one := range all {
		if x.err == nil {
			delete(x.pins, one)
		}
	}
	return x.err
}

// rig is Pins above a real ledger, and a registry that is a map. Nothing runs by
// itself: a test calls look, and fetch for what the background would fetch now.
type rig struct {
	*Pins
	t       testing.TB
	clock   *testkit.Clock
	log     *testkit.Log
	ledger  *eviction.Ledger
	index   *fakeIndex
	path    string // of the pins file
	jobs    *jobs.List
	frozen  map[index.Name]digest.Digest
	refused map[string]error // repositories of which nothing can be pinned

	bodies map[digest.Digest][]byte // of manifests, at the registry and, if the ledger holds them, here
	sizes  map[digest.Digest]int64  // of everything at the registry
	hub    map[string]digest.Digest // what references name at the registry
	down   bool
	asked  []string // of the registry
}

func newRig(t testing.TB) *rig {
	r := &rig{
		t: t, clock: testkit.NewClock(start), log: new(testkit.Log), refused: make(map[string]error),
		index:  &fakeIndex{pins: make(map[index.PinName]index.Pin), tags: make(map[index.Name]index.Tag)},
		bodies: make(map[digest.Digest][]byte), sizes: make(map[digest.Digest]int64), hub: make(map[string]digest.Digest),
	}
	all := metrics.New()
	r.jobs = jobs.New(jobs.Options{AtATime: 1, Kept: 1000, Waiting: 1, Now: r.clock.Now, Metrics: all.Jobs, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.jobs.Close)
	r.ledger = r.newLedger()
	r.open()
	return r
}

func (r *rig) newLedger() *eviction.Ledger {
	return eviction.NewLedger(eviction.LedgerOptions{
		Limit: budget, SmallSize: mib, SmallShare: 0.05, High: 0.98, Low: 0.95, Now: r.clock.Now, Metrics: metrics.New().Space,
	})
}

// open makes Pins as a start does.
func (r *rig) open() {
	r.Pins = New(Options{
		Store: r, Ledger: r.ledger, Index: r.index, Fetcher: r, Jobs: r.jobs, Frozen: func() iter.Seq2[index.Name, digest.Digest] { return maps.All(r.frozen) },
		Repository: func(registry, repository string) (Repository, error) {
			return Repository{Registry: registry, Restricted: strings.HasPrefix(repository, "shared/")}, r.refused[repository]
		},
		Default: "docker.io", File: r.path, MaxBlob: maxBlob, Every: time.Second, Now: r.clock.Now, After: time.After,
		Metrics: metrics.New(), Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	r.look()
}

// restart loses what is in memory.
func (r *rig) restart() {
	held := slices.Collect(r.ledger.Objects())
	r.ledger = r.newLedger()
	r.ledger.AwaitPins()
	for _, o := range held {
		r.ledger.Adopt(o.Digest, o.Size, o.Used, o.Partial)
	}
	r.open()
}

// Manifest implements Store.
func (r *rig) Manifest(d digest.Digest) (cache.Manifest, bool) {
	if body := r.bodies[d]; body != nil && r.ledger.Holds(d) {
		return cache.Manifest{Digest: d, Body: body}, true
	}
	return cache.Manifest{}, false
}

// Parts implements Store.
func (r *rig) Parts(d digest.Digest) ([]content.Part, bool) {
	one, held := r.Manifest(d)
	if !held {
		return nil, false
	}
	m, err := content.Parse(one.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Parts(), true
}

// Image implements Fetcher: it fetches what the ledger does not hold, and moves the
// tag.
func (r *rig) Image(_ context.Context, ref reference.Reference, req warm.Request, _ func(warm.Progress)) (warm.Result, error) {
	what := ref.String()
	if req.ManifestsOnly {
		what += " manifests"
	}
	r.asked = append(r.asked, what)
	result := warm.Result{Ref: ref.String(), Digest: ref.Digest}
	if ref.Digest == "" {
		tag, known := r.index.tags[tagName(ref)]
		if !r.down {
			tag.Digest, known = r.hub[ref.String()], r.hub[ref.String()] != ""
		}
		if !known {
			return result, errDown
		}
		if result.Digest = tag.Digest; !req.DryRun {
			r.index.tags[tagName(ref)] = tag
		}
	}
	err := r.fetchTree(result.Digest, req, &result)
	return result, err
}

func tagName(ref reference.Reference) index.Name {
	return index.Name{Registry: ref.Registry, Repository: ref.Repository, Kind: index.KindTag, Name: ref.Tag, Restricted: strings.HasPrefix(ref.Repository, "shared/")}
}

func (r *rig) fetchTree(d digest.Digest, req warm.Request, result *warm.Result) error {
	if req.DryRun && !r.ledger.Holds(d) {
		result.Unknown = true
		return nil
	}
	if !r.ledger.Holds(d) {
		result.Pulls++
	}
	if err := r.obtain(d); err != nil {
		return err
	}
	m, err := content.Parse(r.bodies[d])
	if err != nil {
		r.t.Fatal(err)
	}
	platforms := req.Platforms
	if len(platforms) == 0 && len(m.Manifests) > 0 {
		if platforms = warm.InUse(m.Manifests, r.Parts, r.ledger.Holds); len(platforms) == 0 {
			platforms = []string{warm.DefaultPlatform()}
		}
	}
	for _, c := range warm.Choose(m.Manifests, platforms) {
		result.Platforms = platforms
		if err := r.fetchTree(c.Digest, req, result); err != nil {
			return err
		}
	}
	for _, p := range m.Parts() {
		if p.Is(content.RoleNeeded) && !req.ManifestsOnly && !req.DryRun {
			if err := r.obtain(p.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// obtain fetches what is not held.
func (r *rig) obtain(d digest.Digest) error {
	size, ok := r.sizes[d]
	switch {
	case r.ledger.Holds(d):
		return nil
	case r.down || !ok:
		return errDown
	}
	return r.store(d, size)
}

// store has something held, evicting others for it.
func (r *rig) store(d digest.Digest, size int64) error {
	r.unlink(r.ledger.MakeRoom(size))
	if err := r.ledger.Reserve(size); err != nil {
		return err
	}
	r.ledger.Commit(d, size, size)
	return nil
}

// unlink frees what was evicted.
func (r *rig) unlink(evicted []digest.Digest) {
	for _, d := range evicted {
		if size, ok := r.ledger.Evicted(d); ok {
			r.ledger.Unlinked(d)
			r.ledger.Freed(size)
		}
	}
}

// lose has something be wrong on disk.
func (r *rig) lose(d digest.Digest) {
	r.ledger.Evict(d)
	r.unlink([]digest.Digest{d})
}

// press pulls ten times what fits, unpinned.
func (r *rig) press() {
	r.t.Helper()
	for i := range 100 {
		d := digest.FromString("pressure " + strings.Repeat("x", i))
		if err := r.store(d, 10*mib); err != nil && !errors.Is(err, eviction.ErrNoRoom) {
			r.t.Fatal(err)
		}
		r.unlink(r.ledger.Sweep())
	}
}

// push puts a manifest into the registry.
func (r *rig) push(manifest any) digest.Digest {
	body, err := json.Marshal(manifest)
	if err != nil {
		r.t.Fatal(err)
	}
	d := digest.FromBytes(body)
	r.bodies[d], r.sizes[d] = body, int64(len(body))
	return d
}

// image is an image at the registry: its manifest, its layers and its config.
type image struct {
	digest digest.Digest
	layers []digest.Digest
	config digest.Digest
}

// all is everything of the image.
func (i image) all() []digest.Digest { return append([]digest.Digest{i.digest, i.config}, i.layers...) }

// pushImage makes an image of layers of so many MiB.
func (r *rig) pushImage(seed string, layers ...int64) (i image) {
	blob := func(seed, mediaType string, size int64) ocispec.Descriptor {
		d := digest.FromString(seed)
		r.sizes[d] = size
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: size}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = blob(seed+" config", ocispec.MediaTypeImageConfig, 1000)
	i.config = m.Config.Digest
	for n, size := range layers {
		m.Layers = append(m.Layers, blob(seed+strings.Repeat(" layer", n+1), ocispec.MediaTypeImageLayer, size*mib))
		i.layers = append(i.layers, m.Layers[n].Digest)
	}
	i.digest = r.push(m)
	return i
}

// pushIndex makes an index of images by platform.
func (r *rig) pushIndex(children map[string]image) digest.Digest {
	m := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range slices.Sorted(maps.Keys(children)) {
		os, arch, _ := strings.Cut(name, "/")
		d := children[name].digest
		m.Manifests = append(m.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: r.sizes[d], Platform: &ocispec.Platform{OS: os, Architecture: arch},
		})
	}
	return r.push(m)
}

func (r *rig) mustPin(ref string) Cost {
	r.t.Helper()
	cost, err := r.Pin(r.t.Context(), Request{Ref: ref, By: "test"}, false)
	if err != nil {
		r.t.Fatal(err)
	}
	return cost
}

// fetchDue fetches what may be fetched now, and returns what was asked for.
func (r *rig) fetchDue() []string {
	r.asked = nil
	for {
		one, _ := r.due()
		if one == nil {
			return r.asked
		}
		r.try(r.t.Context(), one)
	}
}

// status returns the state of one pin.
func (r *rig) status(ref string) Status {
	r.t.Helper()
	for _, s := range r.List() {
		if s.Ref == ref {
			return s
		}
	}
	r.t.Fatalf("%s is not in %+v", ref, r.List())
	return Status{}
}

// wantHeld reports those that are held and should not be, or the other way round.
func (r *rig) wantHeld(want bool, what string, all ...digest.Digest) {
	r.t.Helper()
	for i, d := range all {
		if r.ledger.Holds(d) != want {
			r.t.Errorf("%s, part %d (%s): held is %v", what, i, d, !want)
		}
	}
}
