package proxy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// down has every request to the hub answered 503.
var down = fakehub.Always(&fakehub.Fault{Status: http.StatusServiceUnavailable})

// TestSiteInOutage: while the registry fails, each box serves what any box of the site
// holds: tags, manifests, an index, layers and lists, and the registry sends none of it.
func TestSiteInOutage(t *testing.T) {
	all := newSite(t, 3, rigOptions{})
	hub := all[0].hub
	layers := [][]byte{fakehub.RandomBlob(4600, mib), fakehub.RandomBlob(4601, 2*mib), fakehub.RandomBlob(4602, 100*kib)}
	img := hub.Image("library/demo", "1", layers...)
	index := hub.Index("library/demo", "multi", img.Manifest, hub.Image("library/demo", "other", fakehub.RandomBlob(4603, kib)).Manifest)
	all[0].pullWhole(t, "1", img)
	all[0].get("/v2/demo/manifests/multi").want(t, 200, nil, "")
	tags := all[0].get("/v2/demo/tags/list").body
	referrers := all[0].get("/v2/demo/referrers/" + img.Manifest.Digest.String()).body
	hub.Script(down)
	hub.Reset()
	for i, r := range all[1:] {
		for _, ref := range []string{"1", "multi"} {
			r.get("/v2/demo/manifests/"+ref).want(t, 200, nil, staleStatus)
		}
		if got := r.do(http.MethodHead, "/v2/demo/manifests/1"); got.StatusCode != 200 || got.Header.Get("Docker-Content-Digest") != img.Manifest.Digest.String() {
			t.Errorf("box %d: HEAD of a tag: %d", i+1, got.StatusCode)
		}
		if got := r.do(http.MethodHead, "/v2/demo/manifests/"+index.Digest.String()); got.StatusCode != 200 {
			t.Errorf("box %d: HEAD of a digest: %d", i+1, got.StatusCode)
		}
		r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "")
		for n, l := range img.Layers {
			if got := r.do(http.MethodHead, blobPath("demo", l.Digest)); got.StatusCode != 200 || got.ContentLength != l.Size {
				t.Errorf("box %d: HEAD of a layer: %d, %d bytes", i+1, got.StatusCode, got.ContentLength)
			}
			r.get(blobPath("demo", l.Digest)).want(t, 200, layers[n], "")
		}
		r.get("/v2/demo/tags/list").want(t, 200, tags, staleStatus)
		r.get("/v2/demo/referrers/"+img.Manifest.Digest.String()).want(t, 200, referrers, staleStatus)
		r.settle()
	}
	for _, l := range img.Layers {
		if sent := hub.BytesSent(l.Digest); sent != 0 {
			t.Errorf("the registry sent %d bytes", sent)
		}
	}
}

// TestSiteIsAskedOnce: many clients that pull an image in an outage cost the other boxes
// few questions.
func TestSiteIsAskedOnce(t *testing.T) {
	all := newSite(t, 3, rigOptions{})
	img := all[0].hub.Image("library/demo", "1", fakehub.RandomBlob(4650, 2*mib), fakehub.RandomBlob(4651, 2*mib))
	all[0].pullWhole(t, "1", img)
	all[0].hub.Script(down)
	var pulls sync.WaitGroup
	for range 50 {
		pulls.Go(func() {
			got, err := all[1].try(t.Context(), http.MethodGet, "/v2/demo/manifests/"+img.Manifest.Digest.String())
			if err != nil || got.StatusCode != 200 {
				t.Errorf("%d, %v", got.StatusCode, err)
			}
		})
	}
	pulls.Wait()
	if n, _ := all[1].all.Value("hubcap_place_requests_total", "place", "peer"); n > 20 {
		t.Errorf("%v questions for 50 clients", n)
	}
}

// TestSiteLacksALayer: in an outage, an image of which a layer was at a box that has
// died, and nowhere else, is refused at once.
func TestSiteLacksALayer(t *testing.T) {
	all := newSite(t, 3, rigOptions{})
	layer, _ := all.blobOwnedBy(t, 0, "library/demo", 100*kib)
	img := all[0].hub.Image("library/demo", "1", layer)
	all[0].pullWhole(t, "1", img)
	all[1].get("/v2/demo/manifests/1").want(t, 200, img.Body, "")
	all[0].hub.Script(down)
	all[0].stop()
	for _, r := range all[1:] {
		r.clock.Advance(time.Hour)
		begun := time.Now()
		got := r.get("/v2/demo/manifests/1")
		if got.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("status %d", got.StatusCode)
		}
		took := time.Since(begun)
		t.Logf("status %d after %s", got.StatusCode, took.Round(time.Millisecond))
		if took > 10*time.Second { // 1.2 s, and a machine with other work
			t.Errorf("it took %s", took)
		}
	}
}

// impostor is a box that says that every tag names a manifest of its own.
type impostor struct {
	url      string
	manifest []byte
	mu       sync.Mutex
	held     []string // paths that it was asked for with only-if-cached
}

func newImpostor(t *testing.T) *impostor {
	i := &impostor{manifest: []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{},"layers":[]}`)}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/manifests/1") {
			http.NotFound(w, r)
			return
		}
		if r.Header.Get("Cache-Control") == "only-if-cached" {
			i.mu.Lock()
			i.held = append(i.held, r.URL.Path)
			i.mu.Unlock()
		}
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(i.manifest).String())
		_, _ = w.Write(i.manifest)
	}))
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

func (i *impostor) asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.held)
}

// TestSiteIsBelievedInTroubleOnly: what another box says of a tag counts while the
// registry fails, and neither before nor after, nor against the registry's word.
func TestSiteIsBelievedInTroubleOnly(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	lies := newImpostor(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	self := "http://" + l.Addr().String()
	r := newRig(t, rigOptions{hub: hub, listener: l, self: self, site: []string{self, lies.url}})
	r.get("/v2/demo/manifests/1").want(t, 404, nil, "")
	if n := lies.asked(); n != 0 {
		t.Errorf("the box was asked %d times about a tag that the registry does not have", n)
	}
	hub.Script(down)
	r.clock.Advance(time.Hour)
	r.get("/v2/demo/manifests/1").want(t, 200, lies.manifest, staleStatus)
	if n := lies.asked(); n == 0 {
		t.Error("the box was not asked while the registry fails")
	}
	asked := lies.asked()
	hub.Script(nil)
	img := hub.Image("library/demo", "1", fakehub.RandomBlob(4700, kib))
	r.clock.Advance(time.Hour)
	r.get("/v2/demo/manifests/1").want(t, 200, img.Body, "")
	if lies.asked() != asked {
		t.Error("the box was asked while the registry answers")
	}
	hub.Script(down)
	r.pullStale(t, img)
	if lies.asked() != asked {
		t.Error("the box was asked for a tag that is known")
	}
}

// pullStale has a known tag answered in an outage.
func (r *rig) pullStale(t *testing.T, img fakehub.Image) {
	t.Helper()
	r.clock.Advance(time.Hour)
	if got := r.get("/v2/demo/manifests/1"); got.StatusCode == 200 && string(got.body) != string(img.Body) {
		t.Errorf("%s", got.body)
	}
}

// TestOnlyIfCached: who asks for what is held alone is given that, and nothing is asked.
func TestOnlyIfCached(t *testing.T) {
	r := newRig(t, rigOptions{})
	layer := fakehub.RandomBlob(4800, 100*kib)
	img := r.hub.Image("library/demo", "1", layer)
	paths := []string{"/v2/demo/manifests/1", "/v2/demo/manifests/" + img.Manifest.Digest.String(), blobPath("demo", img.Layers[0].Digest), "/v2/demo/tags/list", "/v2/demo/referrers/" + img.Manifest.Digest.String()}
	methods := []string{http.MethodGet, http.MethodHead}
	for _, path := range paths {
		for _, method := range methods {
			if got := r.do(method, path, "Cache-Control", "max-stale=5, Only-If-Cached"); got.StatusCode != 504 {
				t.Errorf("%s %s: %d, want 504", method, path, got.StatusCode)
			}
		}
	}
	if n := r.hub.Count(); n != 0 {
		t.Errorf("%d requests to the registry", n)
	}
	for _, path := range paths {
		r.get(path).want(t, 200, nil, "")
	}
	r.settle()
	asked := r.hub.Count()
	r.clock.Advance(90 * time.Second)
	for _, path := range paths {
		for _, method := range methods {
			got := r.do(method, path, "Cache-Control", "only-if-cached")
			if got.StatusCode != 200 {
				t.Errorf("%s %s: %d, want 200", method, path, got.StatusCode)
			}
			if tag := strings.HasSuffix(path, "/1") || strings.HasSuffix(path, "/list"); tag && got.Header.Get("Age") != "90" {
				t.Errorf("%s %s: Age %q", method, path, got.Header.Get("Age"))
			}
		}
	}
	r.get(paths[2], "Cache-Control", "only-if-cached", "Range", "bytes=100-199").want(t, 206, layer[100:200], "")
	if n := r.hub.Count() - asked; n != 0 {
		t.Errorf("%d requests to the registry", n)
	}
}

// TestOnlyIfCachedShowsNothingRestricted: nothing is shown with it that is not without.
func TestOnlyIfCachedShowsNothingRestricted(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	r := newRig(t, rigOptions{hub: hub, user: boxUser, password: boxPassword, rules: shared})
	hub.SetPrivate("owner/secret", boxUser)
	body := fakehub.RandomBlob(4900, 100*kib)
	d := hub.AddBlob("owner/secret", body)
	r.get(blobPath("owner/secret", d)).want(t, 200, body, "")
	r.settle()
	for _, repo := range []string{"library/other", "owner/other"} {
		if got := r.get(blobPath(repo, d), "Cache-Control", "only-if-cached"); got.StatusCode == 200 {
			t.Errorf("restricted content through %s", repo)
		}
	}
	got := r.get(blobPath("owner/secret", d), "Cache-Control", "only-if-cached", "Via", "1.1 hubcap-forged")
	if got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a box is answered %d", got.StatusCode)
	}
}

// TestSisters: a box asks a box of another site for a large blob before the registry, and
// the registry for small ones and for what the sister does not hold; a sister that takes
// long, or lies, costs no pull.
func TestSisters(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	far := newRig(t, rigOptions{hub: hub})
	large, small, absent := fakehub.RandomBlob(5000, 20*mib), fakehub.RandomBlob(5001, 100*kib), fakehub.RandomBlob(5002, 2*mib)
	img := hub.Image("library/demo", "1", large, small, absent)
	far.get("/v2/demo/manifests/1").want(t, 200, nil, "")
	for i, body := range [][]byte{large, small} {
		far.get(blobPath("demo", img.Layers[i].Digest)).want(t, 200, body, "")
	}
	far.settle()
	near := newRig(t, rigOptions{hub: hub, sisters: []string{far.url}})
	hub.Reset()
	near.get("/v2/demo/manifests/1").want(t, 200, img.Body, "")
	for i, body := range [][]byte{large, small, absent} {
		near.get(blobPath("demo", img.Layers[i].Digest)).want(t, 200, body, "")
	}
	near.settle()
	for i, want := range []int64{0, img.Layers[1].Size, img.Layers[2].Size} {
		if sent := hub.BytesSent(img.Layers[i].Digest); sent != want {
			t.Errorf("layer %d: the registry sent %d bytes, want %d", i, sent, want)
		}
	}
	if n, _ := near.all.Value("hubcap_place_bytes_total", "place", "sister"); n < float64(len(large)) {
		t.Errorf("%v bytes of a sister", n)
	}
}

// TestSistersInTrouble: sisters that are silent, that lie or that are gone.
func TestSistersInTrouble(t *testing.T) {
	body := fakehub.RandomBlob(5100, 2*mib)
	d := digest.FromBytes(body)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		first  bool // the first request succeeds
	}{
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, true},
		"404":    {http.NotFound, true},
		"wrong bytes": {func(w http.ResponseWriter, r *http.Request) {
			bad := slices.Clone(body)
			bad[5] ^= 1
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(bad)))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := fakehub.Start(t, fakehub.Options{})
			hub.AddBlob("library/demo", body)
			r := newRig(t, rigOptions{hub: hub, sisters: []string{liar(t, tc.answer)}, sistersTimeout: 300 * time.Millisecond, stall: testkit.Patience})
			begun := time.Now()
			got, err := r.try(t.Context(), http.MethodGet, blobPath("demo", d))
			if ok := err == nil && got.err == nil && got.StatusCode == 200; ok != tc.first || ok && string(got.body) != string(body) {
				t.Errorf("the first request succeeds: %v, want %v (%v, %v)", ok, tc.first, err, got.err)
			}
			if took := time.Since(begun); took > 20*time.Second { // much less than it takes to stall
				t.Errorf("it took %s", took)
			}
			r.settle()
			r.get(blobPath("demo", d)).want(t, 200, body, "")
		})
	}
}

// TestSiteAsksSistersOnce: the owner of a blob asks the sisters, for all boxes of its
// site.
func TestSiteAsksSistersOnce(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	far := newRig(t, rigOptions{hub: hub})
	all := newSite(t, 2, rigOptions{hub: hub, sisters: []string{far.url}})
	body, d := all.blobOwnedBy(t, 0, "library/demo", 3*mib)
	far.get(blobPath("demo", d)).want(t, 200, body, "")
	far.settle()
	hub.Reset()
	all[1].get(blobPath("demo", d)).want(t, 200, body, "")
	all[1].settle()
	all[0].settle()
	if sent := hub.BytesSent(d); sent != 0 {
		t.Errorf("the registry sent %d bytes", sent)
	}
	if n, _ := all[1].all.Value("hubcap_place_bytes_total", "place", "sister"); n != 0 {
		t.Errorf("a box that does not own the blob took %v bytes from the sister", n)
	}
}
