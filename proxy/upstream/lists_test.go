package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

func TestTags(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	img := hub.Image(repo, "v1", fakehub.RandomBlob(1, 10))
	want := []string{"A", "_", "a", "v1"}
	for _, tag := range want {
		hub.SetTag(repo, tag, img.Manifest.Digest)
	}
	for _, size := range []int{0, 1, 3} {
		hub.Set(func(o *fakehub.Options) { o.PageSize = size })
		if tags, err := client.Tags(within(t), repo); err != nil || !slices.Equal(tags, want) {
			t.Errorf("%d a page: %q, %v", size, tags, err)
		}
	}
	for i := range maxPages {
		hub.SetTag(repo, fmt.Sprintf("v%d", i), img.Manifest.Digest)
	}
	hub.Set(func(o *fakehub.Options) { o.PageSize = 1 })
	if _, err := client.Tags(within(t), repo); !errors.Is(err, ErrTooLong) {
		t.Errorf("too many pages: %v", err)
	}
	hub.Set(func(o *fakehub.Options) { o.PageSize = 0 })
	for name, tc := range map[string]struct {
		body string
		next string
		want string
	}{
		"in no order":         {`{"tags":["b","a","B","b"]}`, "", "B a b"},
		"none":                {`{"tags":[]}`, "", ""},
		"null":                {`{"name":"x","tags":null}`, "", ""},
		"no list":             {`{"name":"x"}`, "", "invalid"},
		"an error":            {`{"errors":[{"code":"UNKNOWN"}]}`, "", "invalid"},
		"no strings":          {`{"tags":[1]}`, "", "invalid"},
		"an array":            {`["a"]`, "", "invalid"},
		"no JSON":             {`<html>`, "", "invalid"},
		"followed by itself":  {`{"tags":["a"]}`, "?n=1000", "invalid"},
		"followed for ever":   {`{"tags":["a"]}`, "?n=1000&page=next", "invalid"},
		"longer than is kept": {`{"tags":["` + strings.Repeat("a", maxList/3) + `"]}`, "?last=", "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			hub.Script(func(q *fakehub.Request) *fakehub.Fault {
				if q.Kind != fakehub.KindTags || q.Authorization == "" {
					return nil
				}
				f := &fakehub.Fault{Body: []byte(tc.body), Header: http.Header{}}
				if tc.next != "" {
					f.Header.Set("Link", `</elsewhere`+tc.next+`>; rel="next"`)
				}
				if tc.next == "?last=" {
					f.Header.Set("Link", fmt.Sprintf(`</elsewhere?last=%d>; rel=next`, q.Seq))
				}
				return f
			})
			tags, err := client.Tags(within(t), repo)
			switch tc.want {
			case "invalid":
				wantKind(t, err, Invalid)
			case "too long":
				if !errors.Is(err, ErrTooLong) {
					t.Errorf("%v", err)
				}
			default:
				if got := strings.Join(tags, " "); err != nil || got != tc.want || tags == nil {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// artifact returns a manifest that refers to another.
func artifact(kind string, subject ocispec.Descriptor) []byte {
	body, _ := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Subject: &subject})
	return body
}

func digestsOf(t *testing.T, referrers []json.RawMessage) (all []digest.Digest) {
	t.Helper()
	for _, one := range referrers {
		var d ocispec.Descriptor
		if err := json.Unmarshal(one, &d); err != nil {
			t.Fatal(err)
		}
		all = append(all, d.Digest)
	}
	slices.Sort(all)
	return all
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	subject := img.Manifest.Digest
	var want []digest.Digest
	for _, kind := range []string{"test/a", "test/b", "test/c"} {
		want = append(want, hub.AddManifest(repo, "", ocispec.MediaTypeImageManifest, artifact(kind, img.Manifest)))
	}
	slices.Sort(want)
	is := func(what string, want []digest.Digest) {
		t.Helper()
		found, err := client.Referrers(within(t), repo, subject)
		if err != nil || found == nil || !slices.Equal(digestsOf(t, found), want) {
			t.Errorf("%s: %s, %v", what, found, err)
		}
	}
	is("all", want)
	hub.Set(func(o *fakehub.Options) { o.PageSize = 2 })
	is("in pages", want)

	hub.Set(func(o *fakehub.Options) { o.NoReferrers = true })
	is("no API and no tag", nil)
	one := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: want[0], Size: 5, ArtifactType: "test/a"}
	tag := "sha256-" + subject.Encoded()
	hub.Index(repo, tag, one)
	is("no API", want[:1])
	hub.SetTag(repo, tag, subject)
	is("a tag of something else", nil)
	_, err := client.Referrers(within(t), "no/such", subject)
	if e := wantKind(t, err, NotFound); e.Code != "NAME_UNKNOWN" {
		t.Errorf("of a repository that is not there: %v", err)
	}
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 404, Body: []byte(`{"errors":[{"code":"NAME_UNKNOWN"}]}`)}, fakehub.OfKind(fakehub.KindReferrers)))
	_, err = client.Referrers(within(t), repo, subject)
	wantKind(t, err, NotFound)
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 503}, fakehub.OfKind(fakehub.KindManifest)))
	_, err = client.Referrers(within(t), repo, subject)
	wantKind(t, err, ServerError)

	hub.Set(func(o *fakehub.Options) { o.NoReferrers = false })
	index := func(manifests string) string {
		return `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":` + manifests + `}`
	}
	for name, tc := range map[string]struct{ mediaType, body string }{
		"a list of tags":            {"application/json", `{"tags":[]}`},
		"an image":                  {ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"layers":[]}`},
		"without manifests":         {ocispec.MediaTypeImageIndex, `{"schemaVersion":2}`},
		"of another version":        {ocispec.MediaTypeImageIndex, `{"schemaVersion":1,"manifests":[]}`},
		"another type inside":       {ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"x/y","manifests":[]}`},
		"manifests twice":           {ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[],"Manifests":[]}`},
		"no digest":                 {ocispec.MediaTypeImageIndex, index(`[{"mediaType":"a/b","size":1}]`)},
		"a digest that is none":     {ocispec.MediaTypeImageIndex, index(`[{"mediaType":"a/b","size":1,"digest":"sha256:x"}]`)},
		"a negative size":           {ocispec.MediaTypeImageIndex, index(`[{"mediaType":"a/b","size":-1,"digest":"` + subject.String() + `"}]`)},
		"no descriptor":             {ocispec.MediaTypeImageIndex, index(`["x"]`)},
		"manifests and no array":    {ocispec.MediaTypeImageIndex, index(`{}`)},
		"a web page":                {"text/html", `{}`},
		"an index of no version":    {"", `{"manifests":[]}`},
		"a docker manifest list":    {"application/vnd.docker.distribution.manifest.list.v2+json", `{"schemaVersion":2,"manifests":[]}`},
		"something that is no JSON": {ocispec.MediaTypeImageIndex, `{`},
	} {
		hub.Script(fakehub.Always(&fakehub.Fault{Body: []byte(tc.body), Header: http.Header{"Content-Type": {tc.mediaType}}}, fakehub.OfKind(fakehub.KindReferrers),
			func(q *fakehub.Request) bool { return q.Authorization != "" }))
		_, err := client.Referrers(within(t), repo, subject)
		t.Run(name, func(t *testing.T) { wantKind(t, err, Invalid) })
	}
}

func TestReferrersTag(t *testing.T) {
	t.Parallel()
	for _, d := range []digest.Digest{digest.SHA256.FromString("x"), digest.SHA512.FromString("x")} {
		if got, want := referrersTag(d), d.Algorithm().String()+"-"+d.Encoded()[:64]; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestNextPage(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		``: "none", `</x?n=1>`: "none", `</x?n=1>; rel="prev"`: "none", `</x?n=1`: "none", `<%zz>; rel="next"`: "none",
		`</x?n=1>; title="rel=next"`:                          "none",
		`</x?n=1>; rel="nextish"`:                             "none",
		`</v2/a/tags/list?last=b&n=2>; rel="next"`:            "last=b&n=2",
		`<https://other.example/v2/a?last=b&n=2>;rel=next`:    "last=b&n=2",
		`</a?x=1>; rel="first", </a?x=2>; foo; REL="up Next"`: "x=2",
		`</a?x=2>; rel="next"; title="y", </a?x=3>; rel=last`: "x=2",
		`</a>; rel=next`: "",
	} {
		got := "none"
		if next := nextPage([]string{link}); next != nil {
			got = next.Encode()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", link, got, want)
		}
	}
}

// FuzzNextPage: the query of a link to the next page is parsed to the same again
// once encoded.
func FuzzNextPage(f *testing.F) {
	for _, link := range []string{`</v2/a/tags/list?last=b&n=2>; rel="next"`, `<a?x=1>; rel="first", <b?x=2;y&z>; rel=next`, `<<?%0d%0a=>>;rel=next`} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		next := nextPage([]string{link})
		if next == nil {
			return
		}
		again, err := url.ParseQuery(next.Encode())
		if err != nil || again.Encode() != next.Encode() || strings.ContainsAny(next.Encode(), "\r\n <>") {
			t.Errorf("%q: %q, %v", link, next.Encode(), err)
		}
	})
}
