package proxy_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

func TestPullColdThenWarm(t *testing.T) {
	r := newRig(t, rigOptions{})
	layer := fakehub.RandomBlob(1, 3*mib)
	img := r.hub.Image("library/demo", "latest", layer)
	index := r.hub.Index("library/demo", "multi", img.Manifest)

	pull := func(from string) {
		t.Helper()
		r.get("/v2/").want(t, 200, nil, "hubcap")
		head := r.do(http.MethodHead, "/v2/library/demo/manifests/multi")
		head.want(t, 200, nil, "")
		if head.ContentLength != index.Size || head.Header.Get("Docker-Content-Digest") != index.Digest.String() ||
			head.Header.Get("Content-Type") != v1.MediaTypeImageIndex {
			t.Errorf("%s: HEAD: length %d, %v", from, head.ContentLength, head.Header)
		}
		get := r.get("/v2/library/demo/manifests/" + index.Digest.String())
		get.want(t, 200, nil, "")
		if digest.FromBytes(get.body) != index.Digest || get.Header.Get("Content-Type") != v1.MediaTypeImageIndex {
			t.Errorf("%s: index: %v", from, get.Header)
		}
		r.get("/v2/library/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "")
		for _, d := range []digest.Digest{img.Config.Digest, img.Layers[0].Digest} {
			got := r.get(blobPath("library/demo", d))
			got.want(t, 200, nil, from)
			if digest.FromBytes(got.body) != d || got.ContentLength != int64(len(got.body)) ||
				got.Header.Get("Docker-Content-Digest") != d.String() || got.Header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("%s: blob: %v", from, got.Header)
			}
		}
		r.settle()
	}
	pull("hubcap; fwd=uri-miss; stored")
	if n := r.manifestRequests(http.MethodHead); n != 1 {
		t.Errorf("%d HEADs upstream", n)
	}
	if n := r.manifestRequests(http.MethodGet); n != 2 {
		t.Errorf("%d manifest GETs upstream", n)
	}
	if n := r.tokenRequests(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	if n := r.hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("the CDN saw %d Authorization headers", n)
	}
	r.hub.Reset()
	pull("hubcap; hit")
	if log := r.hub.Log(); len(log) != 0 {
		t.Errorf("a warm pull asked upstream: %+v", log)
	}
}

func TestBytesAndTypesPassUnchanged(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, mediaType := range map[string]string{
		"schema2": "application/vnd.docker.distribution.manifest.v2+json",
		"list":    "application/vnd.docker.distribution.manifest.list.v2+json",
		"oci":     v1.MediaTypeImageManifest,
		"index":   v1.MediaTypeImageIndex,
		"charset": "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
		"odd":     "application/vnd.example.thing.v7+json",
	} {
		body := fmt.Appendf(nil, "{\n  \"schemaVersion\": 2,\t\"name\": %q }\n\n", name)
		d := r.hub.AddManifest("owner/app", name, mediaType, body)
		for _, reference := range []string{name, d.String()} {
			got := r.get("/v2/owner/app/manifests/" + reference)
			got.want(t, 200, body, "")
			if got.Header.Get("Content-Type") != mediaType || got.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: %v", name, got.Header)
			}
		}
	}
	body := fakehub.RandomBlob(3, 100_000)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromBytes(body)
		r.hub.AddBlobAs("owner/app", d, body)
		for range 2 {
			r.get(blobPath("owner/app", d), "Accept-Encoding", "gzip, zstd").want(t, 200, body, "")
			r.settle()
		}
	}
	empty := digest.FromBytes(nil)
	r.hub.AddBlob("owner/app", nil)
	for range 2 {
		r.get(blobPath("owner/app", empty)).want(t, 200, []byte{}, "")
		r.settle()
	}
}

func TestRange(t *testing.T) {
	r := newRig(t, rigOptions{})
	body := fakehub.RandomBlob(4, 300*kib)
	size := len(body)
	for _, tc := range []struct {
		header string
		status int
		from   int
		to     int // exclusive
	}{
		{"bytes=0-9", 206, 0, 10},
		{"bytes=10-", 206, 10, size},
		{"bytes=-5", 206, size - 5, size},
		{"bytes=-999999999", 206, 0, size},
		{fmt.Sprintf("bytes=1000-%d", size), 206, 1000, size},
		{"bytes=0-", 206, 0, size},
		{"bytes=-0", 416, 0, 0},
		{fmt.Sprintf("bytes=%d-", size), 416, 0, 0},
		{"bytes=500-0", 416, 0, 0},
		{"bytes=abc", 416, 0, 0},
		{"bytes=", 416, 0, 0},
		{"bytes=1-2-3", 416, 0, 0},
		{"bytes=99999999999999999999-", 416, 0, 0},
		{"bytes=0-99999999999999999999", 206, 0, size},
		{"items=0-5", 200, 0, size},
		{"bytes=0-1,4-5", 200, 0, size},
		{"bytes", 200, 0, size},
	} {
		for _, warm := range []bool{false, true} {
			name := fmt.Sprintf("%s, warm %v", tc.header, warm)
			repo := "owner/" + strings.Trim(strings.ToLower(strings.Map(func(c rune) rune {
				if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
					return c
				}
				return 'x'
			}, tc.header)), "-")
			content := append([]byte(tc.header), body[len(tc.header):]...) // a blob of its own for each row
			d := r.hub.AddBlob(repo, content)
			if warm {
				r.get(blobPath(repo, d)).want(t, 200, content, "")
				r.settle()
			}
			got := r.get(blobPath(repo, d), "Range", tc.header)
			if tc.status == 416 {
				got.want(t, 416, nil, "")
				if cr := got.Header.Get("Content-Range"); cr != fmt.Sprintf("bytes */%d", size) {
					t.Errorf("%s: Content-Range %q", name, cr)
				}
				continue
			}
			got.want(t, tc.status, content[tc.from:tc.to], "")
			want := ""
			if tc.status == 206 {
				want = fmt.Sprintf("bytes %d-%d/%d", tc.from, tc.to-1, size)
			}
			if cr := got.Header.Get("Content-Range"); cr != want {
				t.Errorf("%s: Content-Range %q, want %q", name, cr, want)
			}
			r.settle()
			if n := r.hub.BytesSent(d); n > int64(size)+kib { // the bodies of refusals count too
				t.Errorf("%s: %d bytes upstream for %d", name, n, size)
			}
		}
	}
	d := r.hub.AddBlob("owner/conditions", body)
	path, etag := blobPath("owner/conditions", d), `"`+d.String()+`"`
	r.get(path, "Range", "bytes=1-2", "If-Range", `"nope"`).want(t, 200, body, "")
	r.get(path, "Range", "bytes=1-2", "If-Range", etag).want(t, 206, body[1:3], "")
	r.get(path, "If-None-Match", etag).want(t, 304, nil, "")
	r.get(path, "If-None-Match", `"x", W/`+etag).want(t, 304, nil, "")
	r.get(path, "If-None-Match", `"x"`).want(t, 200, body, "")
	head := r.do(http.MethodHead, path, "Range", "bytes=1-2")
	head.want(t, 200, nil, "")
	if head.ContentLength != int64(size) {
		t.Errorf("HEAD with Range: length %d", head.ContentLength)
	}
}

func TestHeadOfWhatIsNotHeldStaysAHead(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(5, 1000))
	head := r.do(http.MethodHead, blobPath("demo", img.Layers[0].Digest))
	head.want(t, 200, nil, "hubcap; fwd=uri-miss")
	if head.ContentLength != 1000 {
		t.Errorf("length %d", head.ContentLength)
	}
	r.do(http.MethodHead, "/v2/demo/manifests/latest").want(t, 200, nil, "hubcap; fwd=uri-miss")
	byDigest := r.do(http.MethodHead, "/v2/demo/manifests/"+img.Manifest.Digest.String())
	byDigest.want(t, 200, nil, "hubcap; fwd=uri-miss")
	if byDigest.ContentLength != img.Manifest.Size || byDigest.Header.Get("Content-Type") != img.Manifest.MediaType {
		t.Errorf("HEAD by digest: %d, %v", byDigest.ContentLength, byDigest.Header)
	}
	if n := r.hub.Count(fakehub.OfMethod(http.MethodGet), fakehub.Not(fakehub.OfKind(fakehub.KindToken))); n != 0 {
		t.Errorf("%d GETs upstream", n)
	}
}

// lookups reads hits and misses by segment.
func (r *rig) lookups() (counted struct{ smallHit, smallMiss, largeHit, largeMiss float64 }) {
	r.t.Helper()
	read := func(segment, result string) float64 {
		n, ok := r.all.Value("hubcap_cache_lookups_total", "segment", segment, "result", result)
		if !ok {
			r.t.Fatal("look-ups are not exported")
		}
		return n
	}
	counted.smallHit, counted.smallMiss = read("small", "hit"), read("small", "miss")
	counted.largeHit, counted.largeMiss = read("large", "hit"), read("large", "miss")
	return counted
}

// One answer is one look-up, however often the cache was asked for it.
func TestLookupsAreCountedBySegment(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: 4 * mib, rateLimitWait: 10 * time.Second})
	small, large, huge := fakehub.RandomBlob(51, 1000), fakehub.RandomBlob(52, 2*mib), fakehub.RandomBlob(53, 5*mib)
	img := r.hub.Image("library/demo", "latest", small, large, huge)
	tag, byDigest := "/v2/demo/manifests/latest", "/v2/demo/manifests/"+img.Manifest.Digest.String()
	layer := func(i int) string { return blobPath("demo", img.Layers[i].Digest) }
	want := r.lookups()
	ask := func(what string, n *float64, by float64, method, path string, header ...string) {
		t.Helper()
		if got := r.do(method, path, header...); got.err != nil {
			t.Errorf("%s: %v", what, got.err)
		}
		r.settle()
		*n += by
		eventually(t, "the answer ends", func() bool { return r.handler.Running() == 0 })
		if got := r.lookups(); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
			want = got
		}
	}
	get, head := http.MethodGet, http.MethodHead
	ask("HEAD of a manifest that is not held", &want.smallMiss, 0, head, tag)
	ask("cold tag", &want.smallMiss, 1, get, tag)
	ask("warm tag", &want.smallHit, 1, get, tag)
	ask("warm manifest by digest", &want.smallHit, 1, get, byDigest)
	ask("HEAD of a held manifest", &want.smallHit, 0, head, tag)
	r.clock.Advance(time.Hour)
	ask("confirmed tag", &want.smallHit, 1, get, tag)
	ask("HEAD of a blob that is not held", &want.smallMiss, 0, head, layer(0))
	ask("cold small layer", &want.smallMiss, 1, get, layer(0))
	ask("warm small layer", &want.smallHit, 1, get, layer(0))
	ask("HEAD of a held blob", &want.smallHit, 0, head, layer(0))
	ask("cold layer", &want.largeMiss, 1, get, layer(1))
	ask("warm layer", &want.largeHit, 1, get, layer(1))
	ask("a few bytes of a warm layer", &want.largeHit, 1, get, layer(1), "Range", "bytes=5-9")
	ask("what is not kept", &want.largeMiss, 1, get, layer(2))
	ask("what is not kept, again", &want.largeMiss, 1, get, layer(2), "Range", "bytes=5-9")
	ask("what nobody has", &want.smallMiss, 0, get, blobPath("demo", digest.FromString("nothing")))
	ask("no pull", &want.smallHit, 0, get, "/v2/")
	ask("cold list of tags", &want.smallMiss, 1, get, "/v2/demo/tags/list")
	ask("warm list of tags", &want.smallHit, 1, get, "/v2/demo/tags/list?n=1")
	r.clock.Advance(time.Hour)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 429}))
	ask("stale tag", &want.smallHit, 1, get, tag)
	r.hub.Down()
	ask("upstream down", &want.smallMiss, 0, get, "/v2/demo/manifests/other")
}

// A blob whose length nobody tells is as large as it turns out to be.
func TestLookupOfUnknownSize(t *testing.T) {
	for name, tc := range map[string]struct {
		size    int
		segment string
	}{"small": {1000, "small"}, "large": {2 * mib, "large"}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			body := fakehub.RandomBlob(54, tc.size)
			d := r.hub.AddBlob("library/demo", body)
			r.hub.Set(func(o *fakehub.Options) { o.Bandwidth = 10 * mib }) // the answer begins before the end is known
			r.hub.Script(fakehub.Always(&fakehub.Fault{NoLength: true, IgnoreRange: true}, fakehub.OfKind(fakehub.KindCDN)))
			r.get(blobPath("demo", d)).want(t, 200, body, "")
			eventually(t, "it is counted", func() bool {
				n, _ := r.all.Value("hubcap_cache_lookups_total", "segment", tc.segment, "result", "miss")
				return n == 1
			})
		})
	}
}

func TestManyClientsOneTransfer(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Set(func(o *fakehub.Options) { o.Bandwidth = 40 * mib })
	layer := fakehub.RandomBlob(6, 4*mib)
	img := r.hub.Image("library/demo", "latest", layer)
	path := blobPath("demo", img.Layers[0].Digest)
	// The upstream cuts half-way, and the first client leaves early.
	r.hub.Script(fakehub.Once(&fakehub.Fault{CutAt: fakehub.At(2 * mib)}, fakehub.OfKind(fakehub.KindCDN)))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	must(t, err)
	first, err := r.client.Do(req)
	must(t, err)
	if _, err := io.ReadFull(first.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 63 {
		all.Go(func() {
			name := []string{"demo", "library/demo", "docker.io/demo"}[i%3]
			got, err := r.try(t.Context(), http.MethodGet, blobPath(name, img.Layers[0].Digest))
			if err != nil || got.StatusCode != 200 || got.err != nil || !bytes.Equal(got.body, layer) {
				t.Errorf("client %d: %v, %v", i, err, got.err)
			}
		})
	}
	leave()
	first.Body.Close()
	all.Wait()
	r.settle()
	if n := r.cdn(img.Layers[0].Digest); n != 2 {
		t.Errorf("%d upstream GETs, want the first and its continuation", n)
	}
	if sent := r.hub.BytesSent(img.Layers[0].Digest); sent > int64(len(layer))+256*kib {
		t.Errorf("%d bytes upstream for a blob of %d", sent, len(layer))
	}
	if n := r.metric("hubcap_fills_resumed_total"); n != "1" {
		t.Errorf("resumed %s times", n)
	}
	eventually(t, "the answers end", func() bool { return r.handler.Running() == 0 })
	if n := r.lookups(); n.largeHit+n.largeMiss != 64 || n.smallHit+n.smallMiss != 0 {
		t.Errorf("look-ups of 64 clients: %+v", n)
	}
}

func TestManyClientsOneColdTag(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(7, 1000))
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			method := http.MethodGet
			if i%2 == 0 {
				method = http.MethodHead
			}
			got, err := r.try(t.Context(), method, "/v2/demo/manifests/latest")
			if err != nil || got.StatusCode != 200 || got.Header.Get("Docker-Content-Digest") != img.Manifest.Digest.String() {
				t.Errorf("client %d: %v %v", i, err, got.Response)
			}
		})
	}
	all.Wait()
	if gets, heads, tokens := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead), r.tokenRequests(); gets != 1 || heads > 1 || tokens != 1 {
		t.Errorf("%d GETs, %d HEADs, %d token requests", gets, heads, tokens)
	}
}

func TestWrongBlobsNeverComplete(t *testing.T) {
	body := fakehub.RandomBlob(8, mib)
	for name, fault := range map[string]*fakehub.Fault{
		"first byte":      {CorruptAt: fakehub.At(0)},
		"last byte":       {CorruptAt: fakehub.At(mib - 1)},
		"short":           {Truncate: fakehub.At(mib / 2)},
		"longer declared": {ExtraLength: 1000},
		"web page":        {HTML: true},
		"endless":         {Endless: true, Rate: 64 * mib},
		"no length, bad":  {NoLength: true, CorruptAt: fakehub.At(5)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{cache: 8 * mib})
			d := r.hub.AddBlob("owner/app", body)
			r.hub.Script(fakehub.Always(fault, fakehub.OfKind(fakehub.KindCDN)))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			got, err := r.try(ctx, http.MethodGet, blobPath("owner/app", d))
			if err == nil && got.StatusCode == 200 && got.err == nil {
				if bytes.Equal(got.body, body) {
					return // the piece that was asked for was right, whatever its header said
				}
				t.Errorf("completed with %d bytes, %s", len(got.body), sha(got.body))
			}
			r.hub.Script(nil)
			if name == "endless" {
				return // it goes on until the client has gone
			}
			r.settle()
			if n, _ := r.ledger.Status().Held(); n != 0 {
				t.Errorf("%d objects were stored", n)
			}
			r.get(blobPath("owner/app", d)).want(t, 200, body, "")
		})
	}
}

func TestRangeAfterWrongContentIsAnsweredWhole(t *testing.T) {
	r := newRig(t, rigOptions{})
	body := fakehub.RandomBlob(9, mib)
	d := r.hub.AddBlob("owner/app", body)
	r.hub.Script(fakehub.Once(&fakehub.Fault{CorruptAt: fakehub.At(0)}, fakehub.OfKind(fakehub.KindCDN)))
	got := r.get(blobPath("owner/app", d))
	if got.StatusCode == 200 && (got.err == nil || len(got.body) > mib-64*kib) { // it may be judged before the first byte
		t.Fatalf("%d bytes, %v", len(got.body), got.err)
	}
	r.settle()
	r.get(blobPath("owner/app", d), "Range", "bytes=1000-").want(t, 200, body, "")
}

func TestWrongManifestsAreRefused(t *testing.T) {
	good := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	for name, fault := range map[string]*fakehub.Fault{
		"web page":        {HTML: true},
		"digest header":   {WrongDigestHeader: digest.FromString("other").String()},
		"above 4 MiB":     {Body: []byte(`{"x":"` + strings.Repeat("x", 4<<20) + `"}`), DropDigestHeader: true},
		"types disagree":  {Header: http.Header{"Content-Type": {"application/vnd.oci.image.index.v1+json"}}},
		"cut":             {CutAt: fakehub.At(10)},
		"two in one":      {Body: []byte(`{"manifests":[],"layers":[]}`), DropDigestHeader: true},
		"no JSON":         {Body: []byte("hello"), DropDigestHeader: true},
		"corrupted bytes": {CorruptAt: fakehub.At(3)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.hub.AddManifest("owner/app", "v1", v1.MediaTypeImageManifest, good)
			r.hub.Script(fakehub.Always(fault, fakehub.OfKind(fakehub.KindManifest)))
			got := r.get("/v2/owner/app/manifests/v1")
			if got.StatusCode < 500 || got.code() != "UNAVAILABLE" {
				t.Errorf("%d %s", got.StatusCode, got.code())
			}
			r.hub.Script(nil)
			r.get("/v2/owner/app/manifests/v1").want(t, 200, good, "hubcap; fwd=uri-miss; stored")
		})
	}
}

func TestNobodyIsToldOfWhatTheyMayNotSee(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("owner/secret", "v1", fakehub.RandomBlob(10, 1000))
	r.hub.SetPrivate("owner/secret", "alice")
	for path, code := range map[string]string{
		"/v2/owner/secret/manifests/v1":                              "MANIFEST_UNKNOWN",
		"/v2/owner/secret/manifests/" + img.Manifest.Digest.String(): "MANIFEST_UNKNOWN",
		blobPath("owner/secret", img.Layers[0].Digest):               "BLOB_UNKNOWN",
		"/v2/owner/secret/tags/list":                                 "NAME_UNKNOWN",
		"/v2/owner/nothing/manifests/v1":                             "MANIFEST_UNKNOWN",
	} {
		got := r.get(path, "Authorization", "Basic YWxpY2U6cGFzcw==")
		if got.StatusCode != 404 || got.code() != code || got.Header.Get("Www-Authenticate") != "" {
			t.Errorf("%s: %d %s %v", path, got.StatusCode, got.code(), got.Header)
		}
	}
}

// TestCredentialsServePublicContentOnly looks for a canary in every request
// that anybody got and in every line of the log.
func TestCredentialsServePublicContentOnly(t *testing.T) {
	const user, password = "box", "canary-4711"
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{user: password}})
	r := newRig(t, rigOptions{hub: hub, user: user, password: password})
	public := hub.Image("owner/public", "v1", fakehub.RandomBlob(11, 1000))
	secret := hub.Image("owner/secret", "v1", fakehub.RandomBlob(12, 1000))
	hub.SetPrivate("owner/secret", user)

	for _, path := range []string{
		"/v2/owner/secret/manifests/v1",
		"/v2/owner/secret/manifests/" + secret.Manifest.Digest.String(),
		blobPath("owner/secret", secret.Layers[0].Digest),
		blobPath("owner/public", secret.Layers[0].Digest),
		"/v2/owner/secret/tags/list",
	} {
		if got := r.get(path); got.StatusCode != 404 && got.StatusCode != 502 {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
	r.get("/v2/owner/public/manifests/v1").want(t, 200, public.Body, "")
	r.get(blobPath("owner/public", public.Layers[0].Digest)).want(t, 200, nil, "")

	basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	used := 0
	for _, req := range hub.Log() {
		if !strings.Contains(req.Authorization, basic) {
			continue
		}
		used++
		if req.Role != fakehub.RoleToken || !strings.Contains(req.Query, "owner%2Fpublic") {
			t.Errorf("the credentials went to %s %s?%s", req.Role, req.Path, req.Query)
		}
	}
	if used != 1 {
		t.Errorf("the credentials were used %d times for the public repository, want once", used)
	}
	if n := hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("the CDN saw %d Authorization headers", n)
	}
	for _, canary := range []string{password, basic} {
		if strings.Contains(r.log.String(), canary) {
			t.Errorf("%q is in the log", canary)
		}
	}
}

func TestForeignTokenServiceGetsNothing(t *testing.T) {
	const user, password = "box", "canary-4711"
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{user: password}})
	foreign := fakehub.Start(t, fakehub.Options{Users: map[string]string{user: password}})
	r := newRig(t, rigOptions{hub: hub, user: user, password: password})
	hub.Image("owner/app", "v1", fakehub.RandomBlob(13, 1000))
	hub.Script(fakehub.Always(&fakehub.Fault{ForeignRealm: foreign.TokenURL() + "/token"}, fakehub.OfRole(fakehub.RoleRegistry)))
	if got := r.get("/v2/owner/app/manifests/v1"); got.StatusCode != 404 && got.StatusCode != 502 {
		t.Errorf("status %d", got.StatusCode)
	}
	if log := foreign.Log(); len(log) != 0 {
		t.Errorf("a foreign token service was asked: %+v", log)
	}
	if !strings.Contains(r.log.String(), "TOKEN_HOSTS") {
		t.Error("the operator is not told")
	}
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		fault  *fakehub.Fault
		status int
		code   string
	}{
		{"503", &fakehub.Fault{Status: 503}, 502, "UNAVAILABLE"},
		{"429", &fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, 429, "TOOMANYREQUESTS"},
		{"no answer", &fakehub.Fault{CloseBeforeHeaders: true}, 504, "UNAVAILABLE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			layer := fakehub.RandomBlob(15, 1000)
			for _, path := range []string{"/v2/owner/app/manifests/v1", blobPath("owner/app", digest.FromBytes(layer)), "/v2/owner/app/tags/list"} {
				r := newRig(t, rigOptions{})
				r.hub.Image("owner/app", "v1", layer)
				r.hub.Script(fakehub.Always(tc.fault, fakehub.OfRole(fakehub.RoleRegistry)))
				got := r.get(path)
				if got.StatusCode != tc.status || got.code() != tc.code {
					t.Errorf("%s: %d %s", path, got.StatusCode, got.code())
				}
				if tc.status == 429 && got.Header.Get("Retry-After") != "7" {
					t.Errorf("%s: Retry-After %q", path, got.Header.Get("Retry-After"))
				}
				if strings.Contains(string(got.body), "127.0.0.1") {
					t.Errorf("%s leaks: %s", path, got.body)
				}
			}
		})
	}
}

func TestStallIsResumed(t *testing.T) {
	r := newRig(t, rigOptions{stall: 200 * time.Millisecond})
	body := fakehub.RandomBlob(16, mib)
	d := r.hub.AddBlob("owner/app", body)
	r.hub.Script(fakehub.Once(&fakehub.Fault{StallAt: fakehub.At(mib / 2)}, fakehub.OfKind(fakehub.KindCDN)))
	r.get(blobPath("owner/app", d)).want(t, 200, body, "")
	if n := r.cdn(d); n < 2 {
		t.Errorf("%d upstream GETs", n)
	}
}

func TestExpiredRedirectIsAskedForAgain(t *testing.T) {
	r := newRig(t, rigOptions{})
	body := fakehub.RandomBlob(17, mib)
	d := r.hub.AddBlob("owner/app", body)
	r.hub.Script(fakehub.First(
		fakehub.Once(&fakehub.Fault{CutAt: fakehub.At(mib / 2)}, fakehub.OfKind(fakehub.KindCDN)),
		fakehub.Once(&fakehub.Fault{Status: 403}, fakehub.OfKind(fakehub.KindCDN)),
	))
	r.get(blobPath("owner/app", d)).want(t, 200, body, "")
	if n := r.hub.Count(fakehub.OfKind(fakehub.KindBlob), fakehub.OfStatus(307)); n != 2 {
		t.Errorf("the registry was asked %d times for the blob's address, want 2: at first, and when that had expired", n)
	}
}

func TestLargeBlobIsStreamedThrough(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: 100 * kib})
	body := fakehub.RandomBlob(18, mib)
	d := r.hub.AddBlob("owner/app", body)
	path := blobPath("owner/app", d)
	r.get(path).want(t, 200, body, "hubcap; fwd=uri-miss; detail=not-kept")
	r.get(path, "Range", "bytes=500-999").want(t, 206, body[500:1000], "")
	r.get(path, "Range", "bytes=500-").want(t, 206, body[500:], "")
	if v := r.metric(`hubcap_uncached_total{reason="too_large"}`); v != "3" {
		t.Errorf("bypasses counted: %s", v)
	}
	if n, _ := r.ledger.Status().Held(); n != 0 {
		t.Errorf("%d objects were stored", n)
	}
}

func TestClientsThatMayNotPull(t *testing.T) {
	r := newRig(t, rigOptions{clients: loopback[1:]})
	got := r.get("/v2/")
	if got.StatusCode != 403 || got.code() != "DENIED" {
		t.Errorf("%d %s", got.StatusCode, got.code())
	}
	r.get("/readyz").want(t, 200, nil, "")
	if len(r.hub.Log()) != 0 {
		t.Error("asked upstream")
	}
}

func TestDraining(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.get("/readyz").want(t, 200, []byte("ok\n"), "")
	r.handler.Drain()
	r.get("/readyz").want(t, 503, nil, "")
	r.get("/livez").want(t, 200, nil, "")
	r.get("/v2/").want(t, 200, nil, "")
	r.handler.WaitQuiet(t.Context(), time.Millisecond, time.Hour)
}

func TestDrainingWaitsForRunningAnswers(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.hub.AddBlob("owner/app", fakehub.RandomBlob(20, mib))
	r.hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(mib / 2)}, fakehub.OfKind(fakehub.KindCDN)))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+blobPath("owner/app", d), nil)
	must(t, err)
	resp, err := r.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		r.handler.WaitQuiet(t.Context(), time.Millisecond, time.Hour)
	}()
	for range 20 { // rounds of the waiting, at least
		select {
		case <-quiet:
			t.Fatal("quiet while an answer is running")
		case <-time.After(time.Millisecond):
		}
	}
	leave()
	<-quiet
}

func TestUpstreamCutsForGoodEndsTheAnswerShort(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	body := fakehub.RandomBlob(19, mib)
	d := r.hub.AddBlob("owner/app", body)
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Kind == fakehub.KindCDN {
			return &fakehub.Fault{CutAt: fakehub.At(mib / 2)}
		}
		return nil
	})
	got := r.get(blobPath("owner/app", d))
	if !errors.Is(got.err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(body, got.body) {
		t.Errorf("%d bytes, %v", len(got.body), got.err)
	}
	if v := r.metric("hubcap_cut_answers_total"); v != "1" {
		t.Errorf("cut answers counted: %s", v)
	}
}

// TestRandomReadersOfOneBlob reads a large blob through everything that goes
// wrong with ranges: many readers at random places, an upstream that cuts,
// refuses addresses, forgets ranges and lies about them. No byte may be wrong.
func TestRandomReadersOfOneBlob(t *testing.T) {
	t.Parallel()
	const size = 12 * mib
	body := fakehub.RandomBlob(21, size)
	readers := 6
	if testing.Short() {
		readers = 3
	}
	for _, tc := range []struct {
		name   string
		script func(n int, q *fakehub.Request) *fakehub.Fault
		most   int64 // bytes upstream
	}{
		{name: "well", most: size},
		{name: "cuts", most: 2 * size, script: func(n int, q *fakehub.Request) *fakehub.Fault {
			if n%3 == 0 {
				return &fakehub.Fault{CutAt: fakehub.At(q.Offset + int64(n)*100_003)}
			}
			return nil
		}},
		{name: "expired addresses", most: size, script: func(n int, _ *fakehub.Request) *fakehub.Fault {
			if n%2 == 1 {
				return &fakehub.Fault{Status: 403}
			}
			return nil
		}},
		{name: "ranges ignored now and then", most: 8 * size, script: func(n int, _ *fakehub.Request) *fakehub.Fault {
			return &fakehub.Fault{IgnoreRange: n%4 == 2}
		}},
		{name: "ranges always ignored", most: 2 * size, script: func(int, *fakehub.Request) *fakehub.Fault {
			return &fakehub.Fault{IgnoreRange: true}
		}},
		{name: "a corrupted byte", most: 4 * size, script: func(n int, _ *fakehub.Request) *fakehub.Fault {
			if n < 5 {
				return &fakehub.Fault{CorruptAt: fakehub.At(size / 2)}
			}
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			d := r.hub.AddBlob("owner/app", body)
			var seen atomic.Int64
			if tc.script != nil {
				r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
					if q.Kind != fakehub.KindCDN {
						return nil
					}
					return tc.script(int(seen.Add(1)), q)
				})
			}
			var all sync.WaitGroup
			for reader := range readers {
				all.Go(func() { r.readAtRandom(t, d, body, uint64(reader)) })
			}
			all.Wait()
			r.settle()
			// What is under way on a connection whose piece another one took over
			// is lost, at most the rest of the piece, which is up to one and a half
			// times a quarter long. The bodies of refusals count too.
			over, _ := r.all.Value("hubcap_fills_taken_over_total")
			if sent := r.hub.BytesSent(d); sent > tc.most+int64(over)*size*3/8+kib {
				t.Errorf("%d bytes upstream for a blob of %d, %v pieces taken over", sent, size, over)
			}
			r.get(blobPath("owner/app", d)).want(t, 200, body, "")
		})
	}
}

// readAtRandom asks for spans of a blob, whole, to the end or short ones. An
// answer may be cut, and one that reaches the end must be right; one that
// ends before is its client's to verify, and is not checked where the
// upstream corrupts.
func (r *rig) readAtRandom(t *testing.T, d digest.Digest, body []byte, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	for range 4 {
		off := rnd.IntN(len(body))
		end := len(body)
		header := fmt.Sprintf("bytes=%d-", off)
		if rnd.IntN(2) == 0 {
			end = min(off+1+rnd.IntN(mib), len(body))
			header = fmt.Sprintf("bytes=%d-%d", off, end-1)
		}
		got, err := r.try(t.Context(), http.MethodGet, blobPath("owner/app", d), "Range", header)
		if err != nil || got.err != nil || got.StatusCode >= 500 {
			continue
		}
		want := body[off:end]
		if got.StatusCode == http.StatusOK { // after a wrong beginning
			want = body
		}
		reachesEnd := end == len(body) || got.StatusCode == http.StatusOK
		if !bytes.Equal(got.body, want) && reachesEnd {
			t.Errorf("%s: %d wrong bytes, %d wanted", header, len(got.body), len(want))
		}
	}
}
