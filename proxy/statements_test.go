package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

// TestStatements holds hubcap to what clients were measured to need, by the numbers of e2e/statements_test.go, as far as no other test
// does. Every image is library/demo, an index that multi names above the manifest that single does.
func TestStatements(t *testing.T) {
	t.Parallel()
	for number, test := range map[int]func(t *testing.T, r *rig, img fakehub.Image, index v1.Descriptor){
		1: pingNeedsNoUpstream, 3: namespaceStaysHere, 7: headIsGetWithoutBody, 9: nothingIsEncoded, 10: acceptIsNotHeld, 11: headCostsNoPull,
		13: onlyWhatIsAsked, 17: blobHeaders, 19: rangesShareOneTransfer, 21: bytesFlow, 24: lostBlobIsFetched, 25: noRedirect, 26: thirtyTwoAtOnce,
		28: authorizationIsIgnored, 30: connectionsOfAllKinds, 31: fallbackTag, 32: versionHeader, 33: errorsAreOurs,
	} {
		t.Run(fmt.Sprintf("statement %d", number), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			img := r.hub.Image("library/demo", "single", fakehub.RandomBlob(800, 3*mib))
			test(t, r, img, r.hub.Index("library/demo", "multi", img.Manifest))
		})
	}
}

func pingNeedsNoUpstream(t *testing.T, r *rig, _ fakehub.Image, _ v1.Descriptor) {
	r.hub.Down()
	for _, path := range []string{"/v2/", "/v2", "/v2/?ns=ghcr.io", "/ghcr.io/v2/"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r.do(method, path).want(t, 200, nil, "hubcap")
		}
	}
	if n := len(r.hub.Log()); n != 0 {
		t.Errorf("%d requests upstream", n)
	}
}

func namespaceStaysHere(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	for _, path := range []string{"/v2/demo/manifests/single", blobPath("demo", img.Config.Digest), "/v2/demo/tags/list", "/v2/demo/referrers/" + img.Manifest.Digest.String()} {
		r.get(path+"?ns=docker.io").want(t, 200, nil, "")
	}
	for _, q := range r.hub.Log() {
		if strings.Contains(q.Query, "ns=") {
			t.Errorf("upstream: %s?%s", q.Path, q.Query)
		}
	}
}

func headIsGetWithoutBody(t *testing.T, r *rig, img fakehub.Image, index v1.Descriptor) {
	for _, reference := range []string{"multi", "single", index.Digest.String(), img.Manifest.Digest.String()} {
		for _, state := range []string{"cold", "warm"} {
			head, get := r.do(http.MethodHead, "/v2/demo/manifests/"+reference), r.get("/v2/demo/manifests/"+reference)
			for _, name := range []string{"Content-Length", "Content-Type", "Docker-Content-Digest", "Etag"} {
				if h, g := head.Header.Values(name), get.Header.Values(name); len(h) != 1 || !slices.Equal(h, g) {
					t.Errorf("%s, %s: %s is %q on HEAD and %q on GET", reference, state, name, h, g)
				}
			}
			if head.StatusCode != 200 || len(head.body) != 0 || get.ContentLength != int64(len(get.body)) {
				t.Errorf("%s, %s: %d with %d bytes", reference, state, head.StatusCode, len(head.body))
			}
		}
	}
}

func nothingIsEncoded(t *testing.T, r *rig, img fakehub.Image, index v1.Descriptor) {
	for path, d := range map[string]digest.Digest{
		"/v2/demo/manifests/multi": index.Digest, "/v2/demo/manifests/single": img.Manifest.Digest, blobPath("demo", img.Layers[0].Digest): img.Layers[0].Digest,
	} {
		for range 2 {
			got := r.get(path, "Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
			if digest.FromBytes(got.body) != d || got.Header.Get("Content-Encoding") != "" || len(got.TransferEncoding) != 0 {
				t.Errorf("%s: %d bytes, %v", path, len(got.body), got.Header)
			}
			r.settle()
		}
	}
}

func acceptIsNotHeld(t *testing.T, r *rig, img fakehub.Image, index v1.Descriptor) {
	for _, accept := range [][]string{
		nil, {"*/*"}, {"application/json"}, {v1.MediaTypeImageManifest}, {v1.MediaTypeImageIndex + ", */*"},
		{"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"},
	} {
		for reference, want := range map[string]v1.Descriptor{"multi": index, index.Digest.String(): index, img.Manifest.Digest.String(): img.Manifest} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v2/demo/manifests/"+reference, nil)
			must(t, err)
			req.Header["Accept"] = accept
			resp, err := r.client.Do(req)
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || digest.FromBytes(body) != want.Digest || resp.Header.Get("Content-Type") != want.MediaType {
				t.Errorf("%s for %q: %d %s, %v", reference, accept, resp.StatusCode, resp.Header.Get("Content-Type"), err)
			}
		}
	}
}

// manifests are the requests for manifests that the hub has seen.
func (r *rig) manifests() string {
	return fmt.Sprintf("%d HEAD, %d GET", r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet))
}

func headCostsNoPull(t *testing.T, r *rig, _ fakehub.Image, index v1.Descriptor) {
	pull := func() {
		t.Helper()
		r.do(http.MethodHead, "/v2/demo/manifests/multi").want(t, 200, nil, "")
		r.get("/v2/demo/manifests/"+index.Digest.String()).want(t, 200, nil, "")
	}
	for _, step := range []struct {
		when string
		wait time.Duration
		want string
	}{{"cold", 0, "1 HEAD, 1 GET"}, {"fresh", time.Second, "0 HEAD, 0 GET"}, {"past its time", 2 * time.Minute, "1 HEAD, 0 GET"}} {
		r.hub.Reset()
		r.clock.Advance(step.wait)
		pull()
		if got := r.manifests(); got != step.want {
			t.Errorf("%s: %s, want %s", step.when, got, step.want)
		}
	}
}

func onlyWhatIsAsked(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	r.get("/v2/demo/manifests/multi").want(t, 200, nil, "")
	r.settle()
	if got := r.manifests(); got != "0 HEAD, 1 GET" || r.hub.Count(fakehub.OfKind(fakehub.KindBlob)) != 0 {
		t.Errorf("an index costs %s, and blobs", got)
	}
	r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "")
	if got := r.manifests(); got != "0 HEAD, 2 GET" {
		t.Errorf("a child costs %s", got)
	}
}

func blobHeaders(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	for _, state := range []string{"cold", "warm"} {
		for _, d := range []v1.Descriptor{img.Config, img.Layers[0]} {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				got := r.do(method, blobPath("demo", d.Digest))
				if got.StatusCode != 200 || got.ContentLength != d.Size || got.Header.Get("Docker-Content-Digest") != d.Digest.String() || got.Header.Get("Accept-Ranges") != "bytes" {
					t.Errorf("%s, %s: %d %v", state, method, got.StatusCode, got.Header)
				}
			}
		}
		r.settle()
	}
}

// rangesShareOneTransfer reads a cold layer as containerd does with concurrent_layer_fetch_buffer: by ranges without an end, of which all
// but the last are left when the next one's bytes begin.
func rangesShareOneTransfer(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	layer, piece := img.Layers[0], int64(mib/2)
	r.hub.Set(func(o *fakehub.Options) { o.Bandwidth = 20 * mib })
	var all sync.WaitGroup
	var mu sync.Mutex
	whole := make([]byte, layer.Size)
	for off := int64(0); off < layer.Size; off += piece {
		all.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.url+blobPath("demo", layer.Digest), nil)
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
			resp, err := r.client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			mine := make([]byte, min(piece, layer.Size-off))
			if _, err := io.ReadFull(resp.Body, mine); err != nil || resp.StatusCode != 206 {
				t.Errorf("from %d: %d, %v", off, resp.StatusCode, err)
			}
			mu.Lock()
			defer mu.Unlock()
			copy(whole[off:], mine)
		})
	}
	all.Wait()
	r.settle()
	if digest.FromBytes(whole) != layer.Digest {
		t.Error("the pieces do not make the layer")
	}
	crossed := int64(0)
	for _, q := range r.hub.Log() {
		if q.Kind == fakehub.KindCDN {
			crossed += q.Sent
		}
	}
	if crossed != layer.Size {
		t.Errorf("%d bytes crossed for %d", crossed, layer.Size)
	}
}

func bytesFlow(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	layer := img.Layers[0].Digest
	r.hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(mib)}, fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(layer)))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+blobPath("demo", layer), nil)
	must(t, err)
	resp, err := r.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, mib-128*kib)); err != nil {
		t.Errorf("what the hub has sent does not come through: %v", err)
	}
}

func lostBlobIsFetched(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	r.pullSingle(t, img)
	lost := 0
	must(t, filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, img.Layers[0].Digest.Encoded()) {
			lost++
			err = os.Remove(path)
		}
		return err
	}))
	if lost != 1 {
		t.Fatalf("%d files of the layer", lost)
	}
	r.pullSingle(t, img)
}

// pullSingle gets the manifest and the layer.
func (r *rig) pullSingle(t *testing.T, img fakehub.Image) {
	t.Helper()
	r.get("/v2/demo/manifests/single").want(t, 200, img.Body, "")
	if got := r.get(blobPath("demo", img.Layers[0].Digest)); got.StatusCode != 200 || digest.FromBytes(got.body) != img.Layers[0].Digest {
		t.Errorf("the layer: %d, %d bytes, %v", got.StatusCode, len(got.body), got.err)
	}
	r.settle()
}

func noRedirect(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for range 2 {
		r.pullSingle(t, img)
	}
	if n := r.hub.Count(fakehub.OfStatus(307)); n != 1 {
		t.Errorf("the hub redirected %d times", n)
	}
}

// thirtyTwoAtOnce has one address read 32 times at once, each on a connection of its own, and leaves them all half-read.
func thirtyTwoAtOnce(t *testing.T, r *rig, _ fakehub.Image, _ v1.Descriptor) {
	const many, size = 32, 32 * mib // more than the system holds of a connection
	d := r.hub.AddRandomBlob("library/demo", 900, size)
	r.get(blobPath("demo", d)).want(t, 200, nil, "")
	r.settle()
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for n := range many {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+blobPath("demo", d), nil)
		must(t, err)
		resp, err := r.client.Do(req)
		must(t, err)
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, kib)); err != nil || resp.StatusCode != 200 {
			t.Fatalf("number %d: %d, %v", n+1, resp.StatusCode, err)
		}
	}
	if n := r.handler.Running(); n != many {
		t.Errorf("%d answers are running, want %d", n, many)
	}
}

func authorizationIsIgnored(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	for _, shown := range []string{"Basic Og==", "Basic Y2FuYXJ5OmNhbmFyeQ==", "Bearer canary", "Negotiate canary", "nonsense"} {
		for _, path := range []string{"/v2/", "/v2/demo/manifests/single", blobPath("demo", img.Config.Digest), "/v2/demo/tags/list"} {
			r.get(path, "Authorization", shown).want(t, 200, nil, "")
		}
		if strings.Contains(r.log.String(), shown) {
			t.Errorf("%q is in the log", shown)
		}
		for _, q := range r.hub.Log() {
			if q.Authorization == shown {
				t.Errorf("%q went to %s", shown, q.Path)
			}
		}
	}
}

func connectionsOfAllKinds(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	for _, alone := range []bool{true, false} {
		r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: alone, DisableCompression: true}}
		r.pullSingle(t, img)
		if got := r.get("/v2/"); got.ProtoMajor != 1 || got.Close != alone {
			t.Errorf("asked for a connection of its own: %v; got %s, closed: %v", alone, got.Proto, got.Close)
		}
		r.client.CloseIdleConnections()
	}
}

func fallbackTag(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	r.hub.Set(func(o *fakehub.Options) { o.NoReferrers = true })
	got := r.get("/v2/demo/referrers/" + img.Manifest.Digest.String())
	got.want(t, 200, nil, "")
	if got.Header.Get("Content-Type") != v1.MediaTypeImageIndex || !bytes.Contains(got.body, []byte(`"manifests":[]`)) {
		t.Errorf("referrers: %v %s", got.Header, got.body)
	}
	path := "/v2/demo/manifests/sha256-" + img.Manifest.Digest.Encoded()
	if got := r.get(path); got.StatusCode != 404 || got.code() != "MANIFEST_UNKNOWN" {
		t.Errorf("the tag in their place: %d %s", got.StatusCode, got.body)
	}
}

func versionHeader(t *testing.T, r *rig, img fakehub.Image, _ v1.Descriptor) {
	for path, status := range map[string]int{
		"/v2/": 200, "/v2/demo/manifests/single": 200, blobPath("demo", img.Config.Digest): 200, "/v2/demo/tags/list": 200,
		"/v2/demo/manifests/none": 404, "/v2/UPPER/manifests/x": 400, "/v2/x.example/y/manifests/z": 404,
	} {
		if got := r.get(path); got.StatusCode != status || got.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s: %d %v", path, got.StatusCode, got.Header)
		}
	}
}

// errorsAreOurs tells podman's users why, and the operator that a client was sent away.
func errorsAreOurs(t *testing.T, r *rig, _ fakehub.Image, _ v1.Descriptor) {
	for path, code := range map[string]string{"/v2/demo/manifests/none": "MANIFEST_UNKNOWN", "/v2/x.example/y/manifests/z": "NAME_UNKNOWN", "/v2/demo/blobs/none": "DIGEST_INVALID"} {
		got := r.get(path)
		if got.code() != code || !bytes.HasPrefix(got.body, []byte(`{"errors":[{"code":"`)) || !bytes.Contains(got.body, []byte(`"message":"`)) || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s", path, got.Header.Get("Content-Type"), got.body)
		}
	}
	eventually(t, "they are counted", func() bool {
		missing, _ := r.all.Value("hubcap_requests_total", "kind", "manifest", "result", "not_found")
		refused, _ := r.all.Value("hubcap_requests_total", "kind", "blob", "result", "refused")
		return missing == 1 && refused == 1
	})
}
