package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/freshness"
)

const staleStatus = "hubcap; fwd=stale; detail=upstream-failed"

// pullWhole has an image of the repository demo held, whole.
func (r *rig) pullWhole(t *testing.T, tag string, img fakehub.Image) {
	t.Helper()
	r.get("/v2/demo/manifests/"+tag).want(t, 200, img.Body, "")
	for _, one := range append(img.Layers, img.Config) {
		r.get(blobPath("demo", one.Digest)).want(t, 200, nil, "")
	}
	r.settle()
}

// TestTagRules answers tags for as long as their rule says.
func TestTagRules(t *testing.T) {
	r := newRig(t, rigOptions{tagRules: []freshness.Rule{
		{Repository: "*", Tag: "v*", Immutable: true}, {Repository: "library/*", Tag: "edge", TTL: 10 * time.Second},
	}})
	for _, tag := range []string{"v1", "edge", "latest"} {
		r.hub.Image("library/demo", tag, fakehub.RandomBlob(1, 1000))
		r.get("/v2/demo/manifests/"+tag).want(t, 200, nil, "")
	}
	for _, step := range []struct {
		after   time.Duration
		asks    string
		untouch string
	}{
		{10 * time.Second, "edge", "v1 latest"},
		{50 * time.Second, "latest edge", "v1"},
		{365 * 24 * time.Hour, "latest edge", "v1"},
	} {
		r.clock.Advance(step.after)
		r.hub.Reset()
		for _, tag := range strings.Fields(step.asks + " " + step.untouch) {
			want := "hubcap; hit"
			if strings.Contains(step.asks, tag) {
				want = "hubcap; fwd=stale; fwd-status=200"
			}
			r.get("/v2/demo/manifests/"+tag).want(t, 200, nil, want)
		}
		if n := r.manifestRequests(http.MethodHead); n != len(strings.Fields(step.asks)) {
			t.Errorf("%d HEADs after %s", n, step.after)
		}
	}
}

// TestOutageCostsFewRequests: a held tag of a failing upstream is not asked
// for again by each client.
func TestOutageCostsFewRequests(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.hub.Reset()
	r.clock.Advance(time.Minute)
	for range 100 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	}
	if n := r.hub.Count(); n != 7 { // a HEAD, a GET in case it is HEAD that fails, their retries, and the question how the registry is
		t.Errorf("%d requests", n)
	}
	r.hub.Reset()
	r.clock.Advance(time.Minute)
	for range 100 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	}
	if n := r.hub.Count(); n != 4 { // the GET was tried, and is not again for an hour
		t.Errorf("%d requests a minute later", n)
	}
	if r.metric(`hubcap_requests_total{kind="manifest",result="stale"}`) != "200" {
		t.Error("stale answers are not counted")
	}
	if !strings.Contains(r.log.String(), "level=WARN msg=request method=GET kind=manifest registry=docker.io repository=library/demo tag=latest") {
		t.Error("a stale answer is not logged")
	}
	r.hub.Script(nil)
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
}

// TestSlowUpstream: a check that takes long goes on behind a stale answer, and
// what it finds counts.
func TestSlowUpstream(t *testing.T) {
	waited := make(chan time.Time, 1)
	r := newRig(t, rigOptions{slow: waited})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	moved := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
	answer := make(chan struct{})
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Method == http.MethodHead {
			<-answer
		}
		return nil
	})
	r.hub.Reset()
	r.clock.Advance(time.Minute)
	waited <- r.clock.Now()
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus) // nobody waits again
	close(answer)
	eventually(t, "the tag moves", func() bool {
		return string(r.get("/v2/demo/manifests/latest").body) == string(moved.Body)
	})
	if heads, gets := r.manifestRequests(http.MethodHead), r.manifestRequests(http.MethodGet); heads != 1 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
}

// TestAgeCountsFromTheQuestion: a registry that takes its time makes no tag older
// than its time.
func TestAgeCountsFromTheQuestion(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
	r.clock.Advance(time.Minute)
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Method == http.MethodHead {
			r.clock.Advance(20 * time.Second) // on its way
		}
		return nil
	})
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
	r.hub.Script(nil)
	r.clock.Advance(39 * time.Second)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; hit")
	r.clock.Advance(time.Second)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
}

// TestStaleIfError counts from the first check that failed, across restarts.
func TestStaleIfError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir, stalePublic: time.Hour})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.clock.Advance(24 * time.Hour)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	r.clock.Advance(time.Hour - time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	now := r.clock.Now()
	r.stop()
	r = newRig(t, rigOptions{dir: dir, hub: r.hub, stalePublic: time.Hour})
	r.clock.Advance(now.Sub(r.clock.Now()))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 502, nil, "")
	r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "hubcap; hit") // a digest is never stale
	r.hub.Script(nil)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "hubcap; fwd=stale; fwd-status=200")
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.clock.Advance(59 * time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus) // it counts anew
}

// TestStaleIfErrorByClockSetBack: a clock that was wrong when the registry first
// failed does not have it count from the years to come.
func TestStaleIfErrorByClockSetBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir, stalePublic: time.Hour})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.clock.Advance(10 * 365 * 24 * time.Hour)
	r.pullWhole(t, "latest", img)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	r.stop()
	r = newRig(t, rigOptions{dir: dir, hub: r.hub, stalePublic: time.Hour}) // in 2030
	for range 2 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
		r.clock.Advance(30 * time.Minute)
	}
	r.get("/v2/demo/manifests/latest").want(t, 502, nil, "")
}

func TestNothingStaleIfError(t *testing.T) {
	r := newRig(t, rigOptions{stalePublic: -1})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 502, nil, "")
}

func TestKeepDeleted(t *testing.T) {
	r := newRig(t, rigOptions{keepDeleted: true})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	r.hub.DeleteTag("library/demo", "latest")
	r.clock.Advance(time.Minute)
	r.hub.Reset()
	const kept = "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream"
	for range 10 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, kept)
	}
	if n := r.hub.Count(); n != 2 { // a HEAD, and a GET that says the same
		t.Errorf("%d requests", n)
	}
	again := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(2, 1000))
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/latest").want(t, 200, again.Body, "hubcap; fwd=uri-miss; stored")
}

// TestKeepDeletedIsNoStaleIfError: how long what is held is served while its
// registry fails says nothing of what the registry has deleted.
func TestKeepDeletedIsNoStaleIfError(t *testing.T) {
	t.Parallel()
	const kept = "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream"
	t.Run("never", func(t *testing.T) {
		r := newRig(t, rigOptions{keepDeleted: true, stalePublic: -1})
		img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
		r.pullWhole(t, "latest", img)
		r.hub.DeleteTag("library/demo", "latest")
		r.clock.Advance(time.Minute)
		for range 3 {
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, kept)
		}
	})
	t.Run("after an outage", func(t *testing.T) {
		r := newRig(t, rigOptions{keepDeleted: true, stalePublic: time.Hour})
		img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
		r.pullWhole(t, "latest", img)
		fail := func() { r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500})) }
		fail()
		r.clock.Advance(time.Minute)
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
		r.hub.Script(nil)
		r.hub.DeleteTag("library/demo", "latest")
		for range 3 {
			r.clock.Advance(time.Hour)
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, kept)
		}
		fail()
		r.clock.Advance(time.Minute)
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus) // it counts anew
		r.clock.Advance(time.Hour)
		r.get("/v2/demo/manifests/latest").want(t, 502, nil, "")
	})
}

// TestNotAllHeld: while the upstream fails, an image of which no layer is held
// is refused at its manifest, by tag and by digest, and so is an index of none
// but such images. An image of which a layer is held is served: its clients may
// have the others.
func TestNotAllHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	whole := r.hub.Image("library/demo", "whole", fakehub.RandomBlob(1, 1000))
	half := r.hub.Image("library/demo", "half", fakehub.RandomBlob(2, 1000), fakehub.RandomBlob(3, 1000))
	index := r.hub.Index("library/demo", "index", whole.Manifest, half.Manifest)
	torn := r.hub.Index("library/demo", "torn", half.Manifest)
	upper := r.hub.Image("library/demo", "upper", fakehub.RandomBlob(4, 1000), fakehub.RandomBlob(5, 1000))
	r.get("/v2/demo/manifests/upper").want(t, 200, nil, "")
	r.get(blobPath("demo", upper.Layers[1].Digest)).want(t, 200, nil, "")
	r.pullWhole(t, "whole", whole)
	r.get("/v2/demo/manifests/half").want(t, 200, nil, "")
	r.get("/v2/demo/manifests/index").want(t, 200, nil, "")
	r.get("/v2/demo/manifests/torn").want(t, 200, nil, "")
	r.settle()
	check := func(when string, status int) {
		t.Helper()
		for path, want := range map[string]int{
			"whole": 200, whole.Manifest.Digest.String(): 200, "index": 200, index.Digest.String(): 200,
			"upper": 200, upper.Manifest.Digest.String(): 200,
			"half": status, half.Manifest.Digest.String(): status, "torn": status, torn.Digest.String(): status,
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				if got := r.do(method, "/v2/demo/manifests/"+path); got.StatusCode != want || method == http.MethodGet && want == 503 && got.code() != "UNAVAILABLE" {
					t.Errorf("%s: %s %s: %d, want %d", when, method, path, got.StatusCode, want)
				}
			}
		}
	}
	check("well", 200)
	r.hub.Down()
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/whole").want(t, 200, nil, staleStatus) // it is known from now on
	check("down", 503)
	r.hub.Up()
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/whole").want(t, 200, nil, "")
	check("up again", 200)
}

// TestDescribedOnly pulls as containerd 2 does: manifests and configs of all platforms to describe them, layers of one. While the upstream
// fails that works as before, beside the image that is whole.
func TestDescribedOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	scripts := fakehub.RandomBlob(3, 1000) // a layer that is the same on all platforms
	mine := r.hub.Image("library/demo", "mine", fakehub.RandomBlob(1, 1000), scripts)
	other := r.hub.Image("library/demo", "other", fakehub.RandomBlob(2, 1000), scripts)
	index := r.hub.Index("library/demo", "index", mine.Manifest, other.Manifest)
	pull := func() {
		t.Helper()
		for _, one := range []v1.Descriptor{index, mine.Manifest, other.Manifest} {
			r.get("/v2/demo/manifests/"+one.Digest.String()).want(t, 200, nil, "")
		}
		for _, one := range []v1.Descriptor{mine.Config, other.Config, mine.Layers[0], mine.Layers[1]} {
			r.get(blobPath("demo", one.Digest)).want(t, 200, nil, "")
		}
		r.settle()
	}
	r.get("/v2/demo/manifests/index").want(t, 200, nil, "")
	pull()
	r.hub.Down()
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/manifests/index").want(t, 200, nil, staleStatus)
	pull()
	r.get("/v2/demo/manifests/other").want(t, 504, nil, "") // a tag that nobody has asked for
}

// TestArtifactIsHeldWithoutItsConfig: ORAS, Trivy and Flux pull the layers of
// an artifact, and not its config.
func TestArtifactIsHeldWithoutItsConfig(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	add := func(tag, configType, config string, layer []byte) []byte {
		body := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
			configType, r.hub.AddBlob("library/demo", []byte(config)), len(config), r.hub.AddBlob("library/demo", layer), len(layer))
		r.hub.AddManifest("library/demo", tag, "application/vnd.oci.image.manifest.v1+json", body)
		r.get("/v2/demo/manifests/"+tag).want(t, 200, body, "")
		return body
	}
	plain, trivy := fakehub.RandomBlob(1, 1000), fakehub.RandomBlob(2, 1000)
	held := map[string][]byte{
		"plain": add("plain", "application/vnd.oci.empty.v1+json", "{}", plain),
		"trivy": add("trivy", "application/vnd.aquasec.trivy.config.v1+json", `{"a":1}`, trivy),
	}
	add("half", "application/vnd.oci.empty.v1+json", "{}", fakehub.RandomBlob(3, 1000))
	for _, layer := range [][]byte{plain, trivy} {
		r.get(blobPath("demo", digest.FromBytes(layer))).want(t, 200, layer, "")
	}
	r.settle()
	r.hub.Down()
	r.clock.Advance(time.Minute)
	for tag, body := range held {
		r.get("/v2/demo/manifests/"+tag).want(t, 200, body, staleStatus)
	}
	r.get("/v2/demo/manifests/half").want(t, 503, nil, "")
}

func TestOffline(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	other := r.hub.Image("library/other", "latest", fakehub.RandomBlob(2, 1000))
	r.pullWhole(t, "latest", img)
	r.stop()
	r.hub.Reset()
	r = newRig(t, rigOptions{dir: dir, hub: r.hub, offline: true, rateLimitWait: time.Hour})
	r.clock.Advance(time.Hour)
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
	r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "hubcap; hit")
	for _, path := range []string{"/v2/other/manifests/latest", blobPath("other", other.Layers[0].Digest), "/v2/other/tags/list"} {
		if got := r.get(path); got.StatusCode != 503 || got.code() != "UNAVAILABLE" {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.code())
		}
	}
	if n := r.hub.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestAbsent: what is not there costs a client's HEAD, its GET and its next try
// one HEAD and one GET upstream, and a push is seen some seconds later.
func TestAbsent(t *testing.T) {
	for name, hide := range map[string]bool{"404": false, "401": true} {
		t.Run(name, func(t *testing.T) {
			hub := fakehub.Start(t, fakehub.Options{HideUnknown: hide})
			if !hide {
				hub.Image("library/demo", "other", fakehub.RandomBlob(9, 10))
			}
			r := newRig(t, rigOptions{hub: hub})
			missing := digest.FromString("missing")
			asked := func() int {
				return r.hub.Count(fakehub.OfRole(fakehub.RoleRegistry), fakehub.Not(fakehub.OfStatus(401)))
			}
			if hide {
				asked = func() int { return r.hub.Count(fakehub.OfKind(fakehub.KindToken)) }
			}
			for path, code := range map[string]string{
				"/v2/demo/manifests/latest":              "MANIFEST_UNKNOWN",
				"/v2/demo/manifests/" + missing.String(): "MANIFEST_UNKNOWN",
				blobPath("demo", missing):                "BLOB_UNKNOWN",
			} {
				r.hub.Reset()
				for range 3 {
					r.do(http.MethodHead, path).want(t, 404, nil, "")
					if got := r.get(path); got.StatusCode != 404 || got.code() != code {
						t.Errorf("%s: %d %s", path, got.StatusCode, got.code())
					}
				}
				if n := asked(); n > 2 {
					t.Errorf("%s: %d requests", path, n)
				}
			}
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			r.get("/v2/demo/manifests/latest").want(t, 404, nil, "")
			r.clock.Advance(freshness.NotFoundFor)
			r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
		})
	}
}

// TestAbsentThroughOneName: a blob that one repository does not have is still
// given where it is held.
func TestAbsentThroughOneName(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(9, 10))
	body := fakehub.RandomBlob(1, 1000)
	d := r.hub.AddBlob("library/other", body)
	r.get(blobPath("demo", d)).want(t, 404, nil, "")
	r.get(blobPath("other", d)).want(t, 200, body, "")
	r.settle()
	r.get(blobPath("demo", d)).want(t, 200, body, "hubcap; hit")
}

// TestRateLimitWait holds misses while the registry wants to be left alone for
// a short while, and no longer.
func TestRateLimitWait(t *testing.T) {
	for name, tc := range map[string]struct {
		wait, retryAfter time.Duration
		held             bool
	}{
		"short":  {10 * time.Second, 7 * time.Second, true},
		"long":   {10 * time.Second, 20 * time.Second, false},
		"not":    {0, time.Second, false},
		"barely": {10 * time.Second, 10 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{rateLimitWait: tc.wait})
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			fault := &fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {fmt.Sprint(int(tc.retryAfter.Seconds()))}}, Body: []byte("Too Many Requests")}
			for _, path := range []string{"/v2/demo/manifests/latest", blobPath("demo", img.Layers[0].Digest), "/v2/demo/tags/list"} {
				r.hub.Script(fakehub.Once(fault, fakehub.OfKind(fakehub.KindManifest, fakehub.KindBlob, fakehub.KindTags)))
				before := r.clock.Now()
				got := r.get(path)
				if waited := r.clock.Now().Sub(before); waited > tc.wait {
					t.Errorf("%s: held for %s", path, waited)
				}
				if tc.held {
					got.want(t, 200, nil, "")
					continue
				}
				if got.StatusCode != 429 || got.code() != "TOOMANYREQUESTS" || got.Header.Get("Retry-After") != fmt.Sprint(int(tc.retryAfter.Seconds())) {
					t.Errorf("%s: %d %s, Retry-After %q", path, got.StatusCode, got.code(), got.Header.Get("Retry-After"))
				}
				r.clock.Advance(tc.retryAfter)
			}
			if delayed := r.metric("hubcap_delayed_requests_total"); (delayed == "3") != tc.held {
				t.Errorf("%s were held", delayed)
			}
		})
	}
}

// TestRateLimitIsNotFelt: what is held goes on being served whatever the
// registry says, and no request is held for it.
func TestRateLimitIsNotFelt(t *testing.T) {
	r := newRig(t, rigOptions{rateLimitWait: time.Hour})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.pullWhole(t, "latest", img)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}))
	r.clock.Advance(time.Minute)
	before := r.clock.Now()
	for range 10 {
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, staleStatus)
		r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "hubcap; hit")
		r.get("/v2/demo/manifests/"+img.Manifest.Digest.String()).want(t, 200, img.Body, "hubcap; hit")
	}
	if !r.clock.Now().Equal(before) {
		t.Error("somebody waited")
	}
}

// TestNotAllHeldWhileLeftAlone: an image that is not here whole is refused at
// its manifest while its registry is not asked for its blobs, and shown where
// who asks for them is held until they come.
func TestNotAllHeldWhileLeftAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		retryAfter string
		status     int
	}{
		"long":  {"3600", 503},
		"short": {"7", 200},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{rateLimitWait: 10 * time.Second})
			whole := r.hub.Image("library/demo", "whole", fakehub.RandomBlob(1, 1000))
			half := r.hub.Image("library/demo", "half", fakehub.RandomBlob(2, 1000))
			r.pullWhole(t, "whole", whole)
			r.get("/v2/demo/manifests/half").want(t, 200, nil, "")
			r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {tc.retryAfter}}}))
			r.clock.Advance(time.Minute)
			r.get("/v2/demo/manifests/whole").want(t, 200, whole.Body, staleStatus)
			r.get("/v2/demo/manifests/half").want(t, tc.status, nil, "")
			r.get("/v2/demo/manifests/"+half.Manifest.Digest.String()).want(t, tc.status, nil, "")
			r.hub.Script(nil)
			if tc.status == 200 {
				r.get(blobPath("demo", half.Layers[0].Digest)).want(t, 200, nil, "")
			}
			r.clock.Advance(time.Hour)
			r.get("/v2/demo/manifests/half").want(t, 200, nil, "")
		})
	}
}

// TestPullLimitStopsManifestsOnly: with no pulls left, what is new is refused
// from memory, HEADs confirm tags, and layers come.
func TestPullLimitStopsManifestsOnly(t *testing.T) {
	r := newRig(t, rigOptions{hub: fakehub.Start(t, fakehub.Options{RateLimit: 1}), rateLimitWait: 10 * time.Second})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.hub.Image("library/other", "latest", fakehub.RandomBlob(2, 1000))
	r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
	r.get("/v2/other/manifests/latest").want(t, 429, nil, "")
	r.hub.Reset()
	for range 20 {
		got := r.get("/v2/other/manifests/latest")
		if got.StatusCode != 429 || got.code() != "TOOMANYREQUESTS" || got.Header.Get("Retry-After") != "60" {
			t.Errorf("%d %s, Retry-After %q", got.StatusCode, got.code(), got.Header.Get("Retry-After"))
		}
	}
	if n := r.hub.Count(fakehub.OfKind(fakehub.KindManifest)); n != 0 {
		t.Errorf("%d requests", n)
	}
	r.get(blobPath("demo", img.Layers[0].Digest)).want(t, 200, nil, "hubcap; fwd=uri-miss; stored")
}

// TestCircuitSparesClients: an upstream that is down is not waited for by each
// client.
func TestCircuitSparesClients(t *testing.T) {
	r := newRig(t, rigOptions{tryAgain: time.Hour})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.hub.Down()
	for i := range 20 {
		got := r.get(fmt.Sprintf("/v2/demo/manifests/v%d", i))
		if got.StatusCode < 500 {
			t.Fatalf("%d", got.StatusCode)
		}
		if i > 10 {
			got.want(t, 503, nil, "")
			if got.Header.Get("Retry-After") == "" || got.code() != "UNAVAILABLE" {
				t.Errorf("%s %v", got.code(), got.Header)
			}
		}
	}
	if n := r.metric(`hubcap_upstream_requests_total{class="none",upstream="docker.io"}`); n != "8" { // for three objects, and the question how the registry is
		t.Errorf("%s requests were sent", n)
	}
	if n := r.metric(`hubcap_upstream_circuits{role="registry",state="open",upstream="docker.io"}`); n != "1" {
		t.Errorf("%s circuits are open", n)
	}
	if !strings.Contains(r.log.String(), "circuit open: a host fails") {
		t.Error("not logged")
	}
}

// TestFewRequests holds what many clients cost a registry against the number
// that they must.
func TestFewRequests(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	crowd := func(n int, method string) {
		t.Helper()
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				got, err := r.try(context.Background(), method, "/v2/demo/manifests/latest")
				if err != nil || got.StatusCode != 200 {
					t.Error(got.StatusCode, err)
				}
			})
		}
		all.Wait()
	}
	for _, step := range []struct {
		name                string
		clients             int
		after               time.Duration
		gets, heads, tokens int
	}{
		{"500 clients, one cold tag", 500, 0, 1, 0, 1},
		{"1,000 pulls inside the TTL", 1000, 30 * time.Second, 0, 0, 0},
		{"100 clients, past the TTL", 100, 30 * time.Second, 0, 1, 0},
	} {
		r.clock.Advance(step.after)
		r.hub.Reset()
		crowd(step.clients, http.MethodGet)
		gets, heads, tokens := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead), r.tokenRequests()
		if gets != step.gets || heads != step.heads || tokens != step.tokens {
			t.Errorf("%s: %d GETs, %d HEADs, %d tokens", step.name, gets, heads, tokens)
		}
	}
	if n := r.metric(`hubcap_upstream_pulls_total{identity="anonymous",upstream="docker.io"}`); n != "1" {
		t.Errorf("%s pulls are counted", n)
	}
}

// TestColdMultiArchitecturePull counts the manifests of a dockerd's pull: the
// index and the one image, each once.
func TestColdMultiArchitecturePull(t *testing.T) {
	r := newRig(t, rigOptions{})
	amd := r.hub.Image("library/demo", "", fakehub.RandomBlob(1, 1000))
	arm := r.hub.Image("library/demo", "", fakehub.RandomBlob(2, 1000))
	index := r.hub.Index("library/demo", "latest", amd.Manifest, arm.Manifest)
	head := r.do(http.MethodHead, "/v2/demo/manifests/latest")
	head.want(t, 200, nil, "")
	r.get("/v2/demo/manifests/"+head.Header.Get("Docker-Content-Digest")).want(t, 200, nil, "")
	r.get("/v2/demo/manifests/"+amd.Manifest.Digest.String()).want(t, 200, amd.Body, "")
	if index.Digest.String() != head.Header.Get("Docker-Content-Digest") {
		t.Error("not the index")
	}
	if gets, heads := r.manifestRequests(http.MethodGet), r.manifestRequests(http.MethodHead); gets != 2 || heads != 1 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
	if n := r.metric(`hubcap_upstream_pulls_total{identity="anonymous",upstream="docker.io"}`); n != "2" {
		t.Errorf("%s pulls are counted", n)
	}
}
