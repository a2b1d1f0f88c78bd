package pull

import (
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	testkit.VerifyMain(m)
}

// rig is a Puller with a cache, in front of a fakehub. No HTTP server of
// hubcap's is involved.
type rig struct {
	t     *testing.T
	hub   *fakehub.Hub
	clock *testkit.Clock
	cache *cache.Cache
	*Puller
	docker *upstream.Upstream
}

const repo = "library/demo"

func newRig(t *testing.T) *rig {
	t.Helper()
	const mib = 1 << 20
	r := &rig{t: t, hub: fakehub.Start(t, fakehub.Options{}), clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))}
	all, log := metrics.New(), slog.New(slog.DiscardHandler)
	store, err := blobs.Open(t.TempDir())
	must(t, err)
	idx, err := index.Open(index.Options{Dir: store.Dir(), Room: store.Room, Reserve: mib, Interval: time.Hour, Log: log})
	must(t, err)
	ledger := eviction.NewLedger(eviction.LedgerOptions{
		Limit: 1 << 30, SmallSize: mib, SmallShare: 0.05, High: 1, Low: 0.9, Now: r.clock.Now, Metrics: all.Space,
	})
	r.cache = cache.New(cache.Options{
		Store: store, Index: idx, MaxBlob: 1 << 30, ManifestMemory: mib, Ledger: ledger, Capacity: advisor.NewCapacity(time.Now),
		FlushInterval: time.Hour, SweepInterval: time.Hour, StartWithin: time.Hour, Patience: time.Minute, VerifyInterval: 7 * 24 * time.Hour, Now: r.clock.Now,
		Connections: 1, MaxFills: 64, MaxConnections: 64, MaxPerHost: 16, Metrics: all, Log: log,
	})
	tags := freshness.New(freshness.Options{
		Store: r.cache, Index: idx, Metrics: all.Fills, Now: r.clock.Now, After: func(time.Duration) <-chan time.Time { return nil }, Log: log,
	})
	at, err := url.Parse(r.hub.RegistryURL())
	must(t, err)
	token, err := url.Parse(r.hub.TokenURL())
	must(t, err)
	set, err := upstream.NewSet([]upstream.Entry{{Host: upstream.DockerHub, TagTTL: time.Minute, Options: upstream.Options{
		Label: upstream.DockerHub, URL: at, PrivateCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		TokenHosts:     []string{token.Host},
		ConnectTimeout: 5 * time.Second, HeaderTimeout: 5 * time.Second, StallTimeout: 5 * time.Second,
		Proxy:     func(*http.Request) (*url.URL, error) { return nil, nil },
		UserAgent: "hubcap/test", MaxManifest: cache.MaxManifest, TryAgain: 1, Now: r.clock.Now, Metrics: all.Upstreams, Log: log,
	}}}, upstream.DockerHub)
	must(t, err)
	r.docker = set.Default()
	r.Puller = New(Options{
		Cache: r.cache, Tags: tags, Identities: access.NewIdentities(r.clock.Now), Grants: access.NewGrants(r.clock.Now),
		Links: access.NewLinks(idx, all.Fills, log), StalePublic: -1, Now: r.clock.Now,
	})
	t.Cleanup(func() {
		r.cache.Close()
		tags.Close()
		must(t, idx.Close())
		must(t, store.Close())
	})
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// repository is a repository as an anonymous client sees it.
func (r *rig) repository(name string) Repository {
	r.t.Helper()
	one, err := r.Repository(r.docker, name, Identity{})
	must(r.t, err)
	return one
}

// manifests fetches manifests by digest.
func (r *rig) manifests(all ...v1.Descriptor) {
	r.t.Helper()
	for _, d := range all {
		_, err := r.repository(repo).Manifest(r.t.Context(), Reference{Digest: d.Digest}, false)
		must(r.t, err)
	}
}

// sink is a client that takes all bytes.
type sink struct{ io.Writer }

func (sink) FlushError() error { return nil }

// blobs fetches blobs.
func (r *rig) blobs(all ...v1.Descriptor) {
	r.t.Helper()
	for _, d := range all {
		b, err := r.repository(repo).Blob(r.t.Context(), d.Digest, 0)
		must(r.t, err)
		must(r.t, b.Send(r.t.Context(), sink{io.Discard}, 0, b.Size))
		b.Close()
	}
}

func missing(report Report) (all []digest.Digest) {
	for _, one := range report.Missing {
		all = append(all, one.Digest)
	}
	return all
}

// TestWhole reports what an image and an index lack, until they lack nothing.
func TestWhole(t *testing.T) {
	r := newRig(t)
	mine := r.hub.Image(repo, "mine", fakehub.RandomBlob(1, 1000), fakehub.RandomBlob(2, 2000))
	other := r.hub.Image(repo, "other", fakehub.RandomBlob(3, 3000))
	top := r.hub.Index(repo, "index", mine.Manifest, other.Manifest)
	whole := func(d v1.Descriptor) Report { return r.repository(repo).Whole(d.Digest) }

	if got := whole(top); got.Whole || !slices.Equal(missing(got), []digest.Digest{top.Digest}) || got.Missing[0].Why != NoManifest {
		t.Errorf("nothing held: %+v", got)
	}
	r.manifests(top)
	if got := whole(top); got.Whole || !slices.Equal(missing(got), []digest.Digest{mine.Manifest.Digest, other.Manifest.Digest}) || got.Missing[0].Size != mine.Manifest.Size {
		t.Errorf("the index alone: %+v", got)
	}
	r.manifests(mine.Manifest)
	r.blobs(mine.Config, mine.Layers[0])
	if got := whole(mine.Manifest); got.Whole || len(got.Missing) != 1 || got.Missing[0] != (Missing{mine.Layers[1].Digest, 2000, NoBlob}) {
		t.Errorf("without a layer: %+v", got)
	}
	r.blobs(mine.Layers[1])
	for _, d := range []v1.Descriptor{mine.Manifest, top} {
		if got := whole(d); !got.Whole || got.Missing != nil {
			t.Errorf("%s: %+v", d.Digest, got)
		}
	}
}

// TestNestsInTrouble: an image at the end of a nest of six indexes is served
// while the upstream is down, and so is each index.
func TestNestsInTrouble(t *testing.T) {
	r := newRig(t)
	image := r.hub.Image(repo, "image", fakehub.RandomBlob(1, 1000))
	nest := []v1.Descriptor{image.Manifest}
	for range 6 {
		nest = append(nest, r.hub.Index(repo, "index", nest[len(nest)-1]))
	}
	r.manifests(nest...)
	inTrouble := func() error {
		for _, d := range nest {
			if _, err := r.repository(repo).Manifest(t.Context(), Reference{Digest: d.Digest}, false); err != nil {
				return err
			}
		}
		return nil
	}
	r.down()
	if err := inTrouble(); err == nil {
		t.Error("an image without its layer is served")
	}
	r.up()
	r.blobs(image.Config, image.Layers[0])
	r.down()
	must(t, inTrouble())
}

// down has the upstream fail, and be known to.
func (r *rig) down() {
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: http.StatusServiceUnavailable}))
	_, _ = r.repository(repo).Manifest(r.t.Context(), Reference{Tag: "unknown"}, false)
	if t := r.docker.Anonymous.Trouble(0); !t.Registry {
		r.t.Fatalf("%+v", t)
	}
}

func (r *rig) up() {
	r.hub.Script(nil)
	r.clock.Advance(time.Hour)
	_, err := r.repository(repo).Manifest(r.t.Context(), Reference{Tag: "image"}, true)
	must(r.t, err)
}

// TestHeadIsNoGet: a registry that answers HEAD of a blob with 404 is still
// asked by GET, and what a GET was told answers a HEAD.
func TestHeadIsNoGet(t *testing.T) {
	r := newRig(t)
	image := r.hub.Image(repo, "image", fakehub.RandomBlob(1, 1000))
	layer := image.Layers[0].Digest
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: http.StatusNotFound}, fakehub.OfKind(fakehub.KindBlob), fakehub.OfMethod(http.MethodHead)))
	requests := func() int {
		return r.hub.Count(fakehub.OfKind(fakehub.KindBlob), fakehub.Not(fakehub.OfStatus(http.StatusUnauthorized)))
	}
	head := func(d digest.Digest) {
		t.Helper()
		if _, _, err := r.repository(repo).BlobSize(t.Context(), d); !freshness.NotFound(err) {
			t.Errorf("HEAD: %v", err)
		}
	}
	head(layer)
	head(layer) // from memory
	if n := requests(); n != 1 {
		t.Errorf("%d requests for two HEADs", n)
	}
	r.blobs(image.Layers[0])

	unknown := digest.FromString("no such blob")
	for range 2 {
		if b, err := r.repository(repo).Blob(t.Context(), unknown, 0); !freshness.NotFound(err) {
			t.Errorf("GET: %v, %v", b, err)
		}
	}
	before := requests()
	head(unknown)
	if n := requests(); n != before {
		t.Error("a HEAD is asked after a GET was told that there is nothing")
	}
}

// TestKnows: a blob counts as known to exist where a held manifest names it, in
// a repository that gave a manifest.
func TestKnows(t *testing.T) {
	r := newRig(t)
	image := r.hub.Image(repo, "image", fakehub.RandomBlob(1, 1000))
	knows := func(name string, d digest.Digest) bool {
		return r.repository(name).Knows(Reference{Blob: true, Digest: d})
	}
	layer := image.Layers[0].Digest
	if knows(repo, layer) {
		t.Error("known before its manifest")
	}
	r.manifests(image.Manifest)
	if !knows(repo, layer) || knows(repo, digest.FromString("no such blob")) || knows("library/made-up", layer) {
		t.Error("known is not what the manifest names, in its repository")
	}
	r.blobs(image.Layers[0])
	if !knows("library/made-up", layer) {
		t.Error("a public blob that is held is not known")
	}
}

// TestSourcesAreEqual: two requests of one client for one blob have the same
// source.
func TestSourcesAreEqual(t *testing.T) {
	r := newRig(t)
	d := digest.FromString("x")
	if a, b := r.repository(repo).want(d, 1), r.repository(repo).want(d, 2); a.Source != b.Source {
		t.Error("differ")
	}
	if a, b := r.repository(repo).want(d, 1), r.repository("library/other").want(d, 1); a.Source == b.Source {
		t.Error("are equal for two repositories")
	}
}
