package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/freshness"
)

// tagged adds an image under many tags.
func tagged(hub *fakehub.Hub, repository string, tags ...string) fakehub.Image {
	img := hub.Image(repository, tags[0], fakehub.RandomBlob(14, 1000))
	for _, tag := range tags[1:] {
		hub.SetTag(repository, tag, img.Manifest.Digest)
	}
	return img
}

// refer adds a manifest of a type that refers to another one.
func refer(t testing.TB, hub *fakehub.Hub, repository, artifactType string, subject ocispec.Descriptor) digest.Digest {
	t.Helper()
	subject.Platform = nil
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "artifactType": artifactType,
		"config": ocispec.DescriptorEmptyJSON, "layers": []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, "subject": subject,
		"annotations": map[string]string{"org.example.kind": artifactType},
	})
	must(t, err)
	return hub.AddManifest(repository, "", ocispec.MediaTypeImageManifest, body)
}

// listed counts requests for lists that were let in.
func (r *rig) listed(kind fakehub.Kind) int {
	return r.hub.Count(fakehub.OfKind(kind), fakehub.Not(fakehub.OfStatus(401)))
}

// wantTags checks a list of tags, and the name in it.
func (p reply) wantTags(t testing.TB, name string, tags ...string) {
	t.Helper()
	var list struct {
		Name string
		Tags []string
	}
	p.want(t, 200, nil, "")
	if err := json.Unmarshal(p.body, &list); err != nil || list.Name != name || !slices.Equal(list.Tags, tags) || list.Tags == nil {
		t.Errorf("%.200s, want the tags %q of %s", p.body, tags, name)
	}
	if got := p.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
}

// wantReferrers checks an index of referrers.
func (p reply) wantReferrers(t testing.TB, want ...digest.Digest) {
	t.Helper()
	p.want(t, 200, nil, "")
	var index struct {
		SchemaVersion int
		MediaType     string
		Manifests     []ocispec.Descriptor
	}
	err := json.Unmarshal(p.body, &index)
	got := []digest.Digest{}
	for _, d := range index.Manifests {
		got = append(got, d.Digest)
	}
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil || !slices.Equal(got, want) {
		t.Errorf("%.300s, want an index of %q", p.body, want)
	}
	if got := p.Header.Get("Content-Type"); got != ocispec.MediaTypeImageIndex {
		t.Errorf("Content-Type %q", got)
	}
}

func TestPagesOfTags(t *testing.T) {
	for _, size := range []int{0, 2} {
		r := newRig(t, rigOptions{})
		tagged(r.hub, "owner/app", "c", "B", "a", "_x", "1.0")
		r.hub.Set(func(o *fakehub.Options) { o.PageSize = size })
		for _, tc := range []struct {
			path, name, tags, link string
		}{
			{"/v2/owner/app/tags/list", "owner/app", "1.0 B _x a c", ""},
			{"/v2/owner/app/tags/list?n=0", "owner/app", "", ""},
			{"/v2/owner/app/tags/list?n=0&last=B", "owner/app", "", ""},
			{"/v2/owner/app/tags/list?n=2", "owner/app", "1.0 B", "/v2/owner/app/tags/list?last=B&n=2"},
			{"/v2/owner/app/tags/list?n=2&last=B", "owner/app", "_x a", "/v2/owner/app/tags/list?last=a&n=2"},
			{"/v2/owner/app/tags/list?n=2&last=a", "owner/app", "c", ""},
			{"/v2/owner/app/tags/list?n=2&last=c", "owner/app", "", ""},
			{"/v2/owner/app/tags/list?n=5", "owner/app", "1.0 B _x a c", ""},
			{"/v2/owner/app/tags/list?n=4", "owner/app", "1.0 B _x a", "/v2/owner/app/tags/list?last=a&n=4"},
			{"/v2/owner/app/tags/list?n=999999999", "owner/app", "1.0 B _x a c", ""},
			{"/v2/owner/app/tags/list?last=a", "owner/app", "c", ""},
			{"/v2/owner/app/tags/list?last=2", "owner/app", "B _x a c", ""},
			{"/v2/owner/app/tags/list?n=1&last=Bx", "owner/app", "_x", "/v2/owner/app/tags/list?last=_x&n=1"},
			{"/v2/owner/app/tags/list?last=%0d%0aX:%20y&n=1", "owner/app", "1.0", "/v2/owner/app/tags/list?last=1.0&n=1"},
			{"/v2/owner/app/tags/list?last=", "owner/app", "1.0 B _x a c", ""},
			{"/v2/owner/app/tags/list?ns=docker.io&n=1", "owner/app", "1.0", "/v2/owner/app/tags/list?last=1.0&n=1&ns=docker.io"},
			{"/v2/docker.io/owner/app/tags/list?n=1", "docker.io/owner/app", "1.0", "/v2/docker.io/owner/app/tags/list?last=1.0&n=1"},
			{"/docker.io/v2/owner/app/tags/list?n=1", "owner/app", "1.0", "/docker.io/v2/owner/app/tags/list?last=1.0&n=1"},
		} {
			got := r.get(tc.path)
			got.wantTags(t, tc.name, strings.Fields(tc.tags)...)
			link := ""
			if tc.link != "" {
				link = "<" + tc.link + `>; rel="next"`
			}
			if got.Header.Get("Link") != link {
				t.Errorf("%s: Link %q, want %q", tc.path, got.Header.Get("Link"), link)
			}
		}
		if n, want := r.listed(fakehub.KindTags), max(1, 3*size/2); n != want {
			t.Errorf("%d a page: %d requests upstream, want %d", size, n, want)
		}
		head := r.do(http.MethodHead, "/v2/owner/app/tags/list")
		head.want(t, 200, []byte{}, "hubcap; hit")
		if head.ContentLength != int64(len(r.get("/v2/owner/app/tags/list").body)) {
			t.Errorf("HEAD: Content-Length %d", head.ContentLength)
		}
	}
}

func TestTagsOfALibrary(t *testing.T) {
	r := newRig(t, rigOptions{})
	tagged(r.hub, "library/demo", "latest")
	r.get("/v2/demo/tags/list").wantTags(t, "demo", "latest")
	r.get("/v2/library/demo/tags/list").wantTags(t, "library/demo", "latest")
	if n := r.listed(fakehub.KindTags); n != 1 {
		t.Errorf("%d requests upstream", n)
	}
	r.hub.DeleteTag("library/demo", "latest")
	r.clock.Advance(time.Minute)
	r.get("/v2/demo/tags/list").wantTags(t, "demo")
	r.hub.Reset()
	for range 3 {
		got := r.get("/v2/nothing/tags/list")
		got.want(t, 404, nil, "")
		if got.code() != "NAME_UNKNOWN" {
			t.Errorf("code %s", got.code())
		}
	}
	if n := r.listed(fakehub.KindTags); n != 1 {
		t.Errorf("%d requests for what was not there a moment ago", n)
	}
}

func TestReferrers(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := tagged(r.hub, "owner/app", "v1")
	sbom, signature := refer(t, r.hub, "owner/app", "test/sbom", img.Manifest), refer(t, r.hub, "owner/app", "test/signature", img.Manifest)
	path := "/v2/owner/app/referrers/" + img.Manifest.Digest.String()
	for _, size := range []int{0, 1} {
		r.hub.Set(func(o *fakehub.Options) { o.PageSize = size })
		r.clock.Advance(time.Minute)
		r.get(path).wantReferrers(t, sbom, signature)
		if got := r.get(path); got.Header.Get("OCI-Filters-Applied") != "" || !strings.Contains(string(got.body), `"org.example.kind":"test/sbom"`) {
			t.Errorf("%v %s", got.Header, got.body)
		}
		for artifactType, want := range map[string][]digest.Digest{"test/sbom": {sbom}, "test/signature": {signature}, "test/none": nil} {
			got := r.get(path + "?artifactType=" + artifactType)
			got.wantReferrers(t, want...)
			if got.Header.Get("OCI-Filters-Applied") != "artifactType" || got.Header.Get("Cache-Status") != "hubcap; hit" {
				t.Errorf("%s: %v", artifactType, got.Header)
			}
		}
	}
	nobody := "/v2/owner/app/referrers/" + digest.FromString("nobody").String()
	r.get(nobody).wantReferrers(t)
	r.get(nobody + "?artifactType=x").wantReferrers(t)
	r.get("/v2/owner/app/referrers/" + digest.SHA512.FromString("nobody").String()).wantReferrers(t)

	r.hub.Set(func(o *fakehub.Options) { o.NoReferrers = true })
	r.clock.Advance(time.Minute)
	r.get(path).wantReferrers(t)
	r.hub.Index("owner/app", "sha256-"+img.Manifest.Digest.Encoded(), ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: sbom, Size: 10, ArtifactType: "test/sbom",
	})
	r.clock.Advance(time.Minute)
	r.get(path).wantReferrers(t, sbom)
	r.get(path + "?artifactType=test/signature").wantReferrers(t)

	got := r.get("/v2/owner/nothing/referrers/" + img.Manifest.Digest.String())
	got.want(t, 404, nil, "")
	if got.code() != "NAME_UNKNOWN" {
		t.Errorf("code %s", got.code())
	}
}

// listPaths are a list of tags and one of referrers.
func listPaths(img fakehub.Image) map[fakehub.Kind]string {
	return map[fakehub.Kind]string{
		fakehub.KindTags:      "/v2/owner/app/tags/list?n=1",
		fakehub.KindReferrers: "/v2/owner/app/referrers/" + img.Manifest.Digest.String() + "?artifactType=test/sbom",
	}
}

// TestListsAreAskedForOnce asks for lists at one time, inside their TTL and
// past it.
func TestListsAreAskedForOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	img := tagged(r.hub, "owner/app", "v1", "v2")
	refer(t, r.hub, "owner/app", "test/sbom", img.Manifest)
	for kind, path := range listPaths(img) {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if got, err := r.try(t.Context(), http.MethodGet, path); err != nil || got.StatusCode != 200 {
					t.Errorf("%v, %v", got.Response, err)
				}
			})
		}
		all.Wait()
		r.clock.Advance(59 * time.Second)
		r.get(path).want(t, 200, nil, "hubcap; hit")
		if n := r.listed(kind); n != 1 {
			t.Errorf("%s: %d requests", kind, n)
		}
		r.clock.Advance(time.Second)
		r.get(path).want(t, 200, nil, "hubcap; fwd=stale; fwd-status=200")
		r.get(path).want(t, 200, nil, "hubcap; hit")
		if n := r.listed(kind); n != 2 {
			t.Errorf("%s past its TTL: %d requests", kind, n)
		}
	}
	r.hub.SetTag("owner/app", "v3", img.Manifest.Digest)
	r.clock.Advance(time.Minute)
	got := r.get("/v2/owner/app/tags/list")
	got.want(t, 200, nil, "hubcap; fwd=uri-miss; stored")
	got.wantTags(t, "owner/app", "v1", "v2", "v3")
}

func TestStaleLists(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*fakehub.Hub){
		"down":               func(h *fakehub.Hub) { h.Down() },
		"500":                func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{Status: 500})) },
		"429":                func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{Status: 429})) },
		"token service dead": func(h *fakehub.Hub) { h.RevokeTokens(); h.Down(fakehub.RoleToken) },
		"web page":           func(h *fakehub.Hub) { h.Script(fakehub.Always(&fakehub.Fault{HTML: true})) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			hub := fakehub.Start(t, fakehub.Options{})
			img := tagged(hub, "owner/app", "v1", "v2")
			sbom := refer(t, hub, "owner/app", "test/sbom", img.Manifest)
			r := newRig(t, rigOptions{hub: hub, dir: dir})
			paths := listPaths(img)
			for _, path := range paths {
				r.get(path).want(t, 200, nil, "")
			}
			r.settle()
			fail(hub)
			stale := func(when string) {
				t.Helper()
				r.clock.Advance(time.Hour)
				tags, referrers := r.get(paths[fakehub.KindTags]), r.get(paths[fakehub.KindReferrers])
				tags.wantTags(t, "owner/app", "v1")
				referrers.wantReferrers(t, sbom)
				for _, got := range []reply{tags, referrers} {
					got.want(t, 200, nil, staleStatus)
					if got.Header.Get("Warning") == "" || got.Header.Get("Age") < "3600" {
						t.Errorf("%s: not marked: %v", when, got.Header)
					}
				}
				for _, kind := range []string{"tags", "referrers"} {
					if n := r.metric(fmt.Sprintf(`hubcap_requests_total{kind=%q,result="stale"}`, kind)); n != "1" {
						t.Errorf("%s: %s of %s counted", when, n, kind)
					}
				}
				if !strings.Contains(r.log.String(), "level=WARN msg=request method=GET kind=tags registry=docker.io repository=owner/app status=200 from=stale") {
					t.Errorf("%s: not logged", when)
				}
				if got := r.get("/v2/owner/other/tags/list"); got.StatusCode < 429 {
					t.Errorf("%s: %d for a list that is not held", when, got.StatusCode)
				}
			}
			stale("while running")
			r.stop()
			r = newRig(t, rigOptions{hub: hub, dir: dir})
			stale("started while the upstream fails")
			hub.Script(nil)
			hub.Up()
			r.clock.Advance(time.Hour) // it is left alone for a while
			for _, path := range paths {
				r.get(path).want(t, 200, nil, "hubcap; fwd=stale; fwd-status=200")
			}
		})
	}
}

// TestSlowList has the registry take its time: what is held is the answer, and
// the registry's is there for the next one.
func TestSlowList(t *testing.T) {
	waited := make(chan time.Time, 1)
	r := newRig(t, rigOptions{slow: waited})
	img := tagged(r.hub, "owner/app", "v1")
	r.get("/v2/owner/app/tags/list").wantTags(t, "owner/app", "v1")
	r.hub.SetTag("owner/app", "v2", img.Manifest.Digest)
	goOn := make(chan struct{})
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Kind == fakehub.KindTags {
			<-goOn
		}
		return nil
	})
	r.clock.Advance(time.Hour)
	waited <- r.clock.Now()
	for range 2 { // nobody waits again
		got := r.get("/v2/owner/app/tags/list")
		got.want(t, 200, nil, staleStatus)
		got.wantTags(t, "owner/app", "v1")
	}
	close(goOn)
	eventually(t, "the registry's answer is taken", func() bool {
		return r.get("/v2/owner/app/tags/list").Header.Get("Cache-Status") == "hubcap; hit"
	})
	r.get("/v2/owner/app/tags/list").wantTags(t, "owner/app", "v1", "v2")
	if n := r.listed(fakehub.KindTags); n != 2 {
		t.Errorf("%d requests upstream", n)
	}
}

// TestListThatIsTooLong is passed on, a page at a time.
func TestListThatIsTooLong(t *testing.T) {
	r := newRig(t, rigOptions{})
	var tags []string
	for i := range 150 {
		tags = append(tags, fmt.Sprintf("v%03d", i))
	}
	img := tagged(r.hub, "owner/app", tags...)
	r.hub.Set(func(o *fakehub.Options) { o.PageSize = 1 })
	r.get("/v2/owner/app/tags/list?n=1&last=v100&ns=docker.io").wantTags(t, "owner/app", "v101")
	r.hub.Reset()
	got := r.get("/v2/owner/app/tags/list?n=1&last=v100&ns=docker.io")
	got.want(t, 200, nil, "hubcap; fwd=bypass")
	got.wantTags(t, "owner/app", "v101")
	if link := got.Header.Get("Link"); link != `</v2/owner/app/tags/list?last=v101&n=1&ns=docker.io>; rel="next"` {
		t.Errorf("Link %q", link)
	}
	for i := range 101 {
		refer(t, r.hub, "owner/app", fmt.Sprintf("test/%d", i), img.Manifest)
	}
	if n := r.listed(fakehub.KindTags); n != 1 {
		t.Errorf("%d requests upstream", n)
	}
	got = r.get("/v2/owner/app/referrers/" + img.Manifest.Digest.String() + "?artifactType=test/7")
	got.want(t, 200, nil, "hubcap; fwd=bypass")
	if got.Header.Get("OCI-Filters-Applied") != "artifactType" || strings.Count(string(got.body), `"artifactType":"test/7"`) != 1 {
		t.Errorf("%v %s", got.Header, got.body)
	}
	r.hub.Set(func(o *fakehub.Options) { o.PageSize = 0 })
	r.clock.Advance(2 * time.Hour)
	r.get("/v2/owner/app/tags/list?n=1").want(t, 200, nil, "hubcap; fwd=uri-miss; stored")
}

// TestRepositoryThatIsGone is not served while its registry refuses it. That is
// not remembered as a fact: when the registry does not answer, there is what
// there was before.
func TestRepositoryThatIsGone(t *testing.T) {
	r := newRig(t, rigOptions{})
	tagged(r.hub, "owner/app", "v1")
	r.get("/v2/owner/app/tags/list").want(t, 200, nil, "")
	r.hub.SetPrivate("owner/app")
	r.hub.RevokeTokens()
	r.clock.Advance(time.Minute)
	r.get("/v2/owner/app/tags/list").want(t, 404, nil, "")
	r.hub.Reset()
	r.get("/v2/owner/app/tags/list").want(t, 404, nil, "")
	if n := len(r.hub.Log()); n != 0 {
		t.Errorf("%d requests for what was not there a moment ago", n)
	}
	r.hub.Down()
	r.clock.Advance(freshness.NotFoundFor)
	r.get("/v2/owner/app/tags/list").want(t, 200, nil, staleStatus)
}

// TestReferrersOfNothing writes down nothing about digests that somebody has
// thought up.
func TestReferrersOfNothing(t *testing.T) {
	dir := t.TempDir()
	hub := fakehub.Start(t, fakehub.Options{})
	img := tagged(hub, "owner/app", "v1")
	r := newRig(t, rigOptions{hub: hub, dir: dir})
	r.get("/v2/owner/app/manifests/v1").want(t, 200, img.Body, "")
	r.settle()
	pulled := "/v2/owner/app/referrers/" + img.Manifest.Digest.String()
	thought := "/v2/owner/app/referrers/" + digest.FromString("thought up").String()
	for _, path := range []string{pulled, thought} {
		r.get(path).wantReferrers(t)
		r.get(path).want(t, 200, nil, "hubcap; hit")
	}
	r.stop()
	hub.Down()
	r = newRig(t, rigOptions{hub: hub, dir: dir})
	r.get(pulled).wantReferrers(t)
	if got := r.get(thought); got.StatusCode < 500 {
		t.Errorf("%d", got.StatusCode)
	}
}

// TestRulesForLists has a list be asked for under the rule for all tags of its
// repository; one whose tags never move gets new ones.
func TestRulesForLists(t *testing.T) {
	for name, tc := range map[string]struct {
		rule freshness.Rule
		ttl  time.Duration
	}{
		"no rule":         {freshness.Rule{Repository: "owner/other", Tag: "*", TTL: time.Hour}, time.Minute},
		"of one tag":      {freshness.Rule{Repository: "owner/app", Tag: "latest", TTL: time.Hour}, time.Minute},
		"of all tags":     {freshness.Rule{Repository: "owner/app", Tag: "*", TTL: time.Hour}, time.Hour},
		"tags that never": {freshness.Rule{Repository: "owner/app", Tag: "*", Immutable: true}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{tagRules: []freshness.Rule{tc.rule}})
			tagged(r.hub, "owner/app", "v1")
			r.get("/v2/owner/app/tags/list").want(t, 200, nil, "")
			r.clock.Advance(tc.ttl - time.Second)
			r.get("/v2/owner/app/tags/list").want(t, 200, nil, "hubcap; hit")
			r.clock.Advance(time.Second)
			r.get("/v2/owner/app/tags/list").want(t, 200, nil, "hubcap; fwd=stale; fwd-status=200")
		})
	}
}

// TestDeletedListIsKept with HUBCAP_KEEP_DELETED.
func TestDeletedListIsKept(t *testing.T) {
	r := newRig(t, rigOptions{keepDeleted: true})
	tagged(r.hub, "owner/app", "v1")
	r.get("/v2/owner/app/tags/list").want(t, 200, nil, "")
	r.hub.Script(fakehub.Always(refusal(404, "NAME_UNKNOWN"), fakehub.OfKind(fakehub.KindTags)))
	r.clock.Advance(time.Minute)
	got := r.get("/v2/owner/app/tags/list")
	got.want(t, 200, nil, "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream")
	got.wantTags(t, "owner/app", "v1")
}
