package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is what is asked.
type Registry struct {
	URL    string // scheme and host
	Client *http.Client
	// Namespace is sent as ns, and to be echoed, where it is not empty.
	Namespace string
	// Cut tells that the registry cannot reach what it is a mirror of. What it
	// could not know by itself may then be an error of the server's, but
	// nothing else.
	Cut bool
}

// Run asks a registry about content that it holds, each check a subtest.
func (r Registry) Run(t *testing.T, c *Content) {
	for _, one := range checks {
		t.Run(one.name, func(t *testing.T) {
			if one.needs != nil && !one.needs(c.Lacks) {
				t.Skip("the registry has no such thing")
			}
			one.check(&session{T: t, Registry: r, content: c, base: "/v2/" + c.Repository})
		})
	}
}

var checks = []struct {
	name  string
	check func(*session)
	needs func(Lacks) bool // nil for nothing special
}{
	{"ping", (*session).ping, nil},
	{"ranges of a blob", (*session).ranges, nil},
	{"manifests by tag", (*session).manifestsByTag, nil},
	{"manifests by digest", (*session).manifestsByDigest, nil},
	{"blobs", (*session).blobs, nil},
	{"what is not there", (*session).absent, nil},
	{"digests that are none", (*session).badDigests, nil},
	{"all tags", (*session).allTags, nil},
	{"pages of tags", (*session).pagesOfTags, nil},
	{"tags after one", (*session).tagsAfter, nil},
	{"pages that are none", (*session).badPages, nil},
	{"a repository without tags", (*session).noTags, func(l Lacks) bool { return !l.Untagged }},
	{"referrers", (*session).allReferrers, nil},
	{"referrers of a type", (*session).someReferrers, nil},
	{"referrers of what nobody knows", (*session).noReferrers, nil},
	{"writes", (*session).writes, nil},
	{"namespace", (*session).namespace, nil},
}

// session is a check being made.
type session struct {
	*testing.T
	Registry
	content *Content
	base    string // path of the repository
}

// answer is a response, read to its end.
type answer struct {
	*http.Response
	what string
	body []byte
}

func (s *session) do(method, path string, header ...string) answer {
	s.Helper()
	if s.Namespace != "" {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "ns=" + s.Namespace
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp, strings.TrimSpace(method + " " + path + " " + strings.Join(header, ":")), body}
}

func (s *session) get(path string, header ...string) answer {
	s.Helper()
	return s.do(http.MethodGet, path, header...)
}

// status tells whether the answer has one of the statuses.
func (s *session) status(a answer, want ...int) bool {
	s.Helper()
	if slices.Contains(want, a.StatusCode) {
		return true
	}
	s.Errorf("%s: status %d, want %v: %.200s", a.what, a.StatusCode, want, a.body)
	return false
}

func (s *session) header(a answer, name, want string) {
	s.Helper()
	if got := a.Header.Get(name); got != want {
		s.Errorf("%s: %s %q, want %q", a.what, name, got, want)
	}
}

// error wants an error of the OCI distribution specification.
func (s *session) error(a answer, status int, codes ...string) {
	s.Helper()
	if s.Cut && status == http.StatusNotFound && a.StatusCode >= 500 {
		return
	}
	var doc struct {
		Errors []struct{ Code string }
	}
	if !s.status(a, status) {
		return
	}
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 || !slices.Contains(codes, doc.Errors[0].Code) {
		s.Errorf("%s: %.200s, want the code %q", a.what, a.body, codes)
	}
}

// object wants GET and HEAD of what has a digest.
func (s *session) object(path string, d digest.Digest, body []byte, mediaType string) {
	s.Helper()
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		a := s.do(method, path)
		if !s.status(a, http.StatusOK) {
			continue
		}
		s.header(a, "Content-Length", fmt.Sprint(len(body)))
		s.header(a, "Docker-Content-Digest", d.String())
		if mediaType != "" {
			s.header(a, "Content-Type", mediaType)
		}
		switch {
		case method == http.MethodGet && !bytes.Equal(a.body, body):
			s.Errorf("%s: %d bytes that differ from the %d of %s", a.what, len(a.body), len(body), d)
		case method == http.MethodHead && len(a.body) > 0:
			s.Errorf("%s: a body", a.what)
		}
	}
}

func (s *session) ping() {
	s.status(s.get("/v2/"), http.StatusOK)
}

func (s *session) ranges() {
	b := s.content.ranged
	path := s.base + "/blobs/" + b.Digest.String()
	for _, tc := range []struct {
		asked      string
		first, end int // exclusive; none for 416
	}{
		{"500-1499", 500, 1500}, {"500-", 500, 3000}, {"-500", 2500, 3000}, {"2000-5000", 2000, 3000}, {"0-0", 0, 1},
		{"500-0", 0, 0}, {"5000-10000", 0, 0}, {"3000-", 0, 0},
	} {
		a := s.get(path, "Range", "bytes="+tc.asked)
		if tc.end == 0 {
			s.status(a, http.StatusRequestedRangeNotSatisfiable)
			continue
		}
		if !s.status(a, http.StatusPartialContent) {
			continue
		}
		s.header(a, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", tc.first, tc.end-1, len(b.Body)))
		if !bytes.Equal(a.body, b.Body[tc.first:tc.end]) {
			s.Errorf("%s: other bytes", a.what)
		}
	}
}

func (s *session) manifestsByTag() {
	for _, m := range s.content.Manifests {
		if m.Tag != "" {
			s.object(s.base+"/manifests/"+m.Tag, m.Digest, m.Body, m.MediaType)
		}
	}
}

func (s *session) manifestsByDigest() {
	for _, m := range s.content.Manifests {
		s.object(s.base+"/manifests/"+m.Digest.String(), m.Digest, m.Body, m.MediaType)
	}
}

func (s *session) blobs() {
	for _, b := range s.content.Blobs {
		s.object(s.base+"/blobs/"+b.Digest.String(), b.Digest, b.Body, "")
	}
}

func (s *session) absent() {
	nothing := digest.FromString("nothing").String()
	s.error(s.get(s.base+"/manifests/nothing"), http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.error(s.get(s.base+"/manifests/"+nothing), http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.error(s.get(s.base+"/blobs/"+nothing), http.StatusNotFound, "BLOB_UNKNOWN")
	s.error(s.get("/v2/"+s.content.Repository+"-nothing/tags/list"), http.StatusNotFound, "NAME_UNKNOWN")
	if a := s.do(http.MethodHead, s.base+"/manifests/nothing"); !s.Cut || a.StatusCode < 500 {
		s.status(a, http.StatusNotFound)
	}
}

func (s *session) badDigests() {
	for _, what := range []string{"manifests", "blobs", "referrers"} {
		s.status(s.get(s.base+"/"+what+"/sha256:baddigeststring"), http.StatusBadRequest, http.StatusNotFound)
	}
	s.error(s.get(s.base+"/referrers/latest"), http.StatusBadRequest, "DIGEST_INVALID")
}

// tags are those of the content, in the order of their bytes.
func (s *session) tags() (tags []string) {
	for _, m := range s.content.Manifests {
		if m.Tag != "" {
			tags = append(tags, m.Tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// wantTags checks a list, and that it has a link to the next page or not.
func (s *session) wantTags(a answer, repository string, want []string, more bool) (next string) {
	s.Helper()
	if !s.status(a, http.StatusOK) {
		return ""
	}
	var list struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(a.body, &list); err != nil || list.Name != repository || list.Tags == nil || !slices.Equal(list.Tags, want) {
		s.Errorf("%s: %.500s, want %q of %s", a.what, a.body, want, repository)
	}
	s.header(a, "Content-Type", "application/json")
	next, rel, _ := strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	if more != (rel == `; rel="next"`) || more == (next == "") {
		s.Errorf("%s: Link %q", a.what, a.Header.Get("Link"))
	}
	return next
}

func (s *session) allTags() {
	s.wantTags(s.get(s.base+"/tags/list"), s.content.Repository, s.tags(), false)
}

func (s *session) pagesOfTags() {
	tags := s.tags()
	for n := 1; n <= len(tags)+1; n++ {
		path := fmt.Sprintf("%s/tags/list?n=%d", s.base, n)
		for from := 0; from < len(tags) && path != ""; from += n {
			to := min(from+n, len(tags))
			path = s.wantTags(s.get(path), s.content.Repository, tags[from:to], to < len(tags))
			path, _, _ = strings.Cut(path, "&ns=") // the link has it too
		}
	}
	s.wantTags(s.get(s.base+"/tags/list?n=0"), s.content.Repository, []string{}, false)
}

func (s *session) tagsAfter() {
	tags := s.tags()
	for i, tag := range tags {
		s.wantTags(s.get(s.base+"/tags/list?last="+tag), s.content.Repository, tags[i+1:], false)
		s.wantTags(s.get(s.base+"/tags/list?n=1&last="+tag), s.content.Repository, tags[i+1:min(i+2, len(tags))], i+2 < len(tags))
		s.wantTags(s.get(s.base+"/tags/list?last="+tag+"-"), s.content.Repository, slices.DeleteFunc(s.tags(), func(t string) bool { return t <= tag+"-" }), false)
	}
}

func (s *session) badPages() {
	for _, n := range []string{"-1", "x", "1.5", "9223372036854775808"} {
		s.error(s.get(s.base+"/tags/list?n="+n), http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
	}
}

func (s *session) noTags() {
	s.wantTags(s.get("/v2/"+s.content.Empty+"/tags/list"), s.content.Empty, []string{}, false)
}

// wantReferrers checks an index.
func (s *session) wantReferrers(a answer, name string, want []ocispec.Descriptor) {
	s.Helper()
	if !s.status(a, http.StatusOK) {
		return
	}
	s.header(a, "Content-Type", ocispec.MediaTypeImageIndex)
	var index ocispec.Index
	if err := json.Unmarshal(a.body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil {
		s.Errorf("of %s: %.300s, want an index", name, a.body)
	}
	if len(index.Manifests) != len(want) {
		s.Errorf("of %s: %d referrers, want %d", name, len(index.Manifests), len(want))
	}
	for _, w := range want {
		if !slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Digest == w.Digest && d.Size == w.Size && d.MediaType == w.MediaType && d.ArtifactType == w.ArtifactType
		}) {
			s.Errorf("of %s: %s is missing from %.500s", name, w.Digest, a.body)
		}
	}
}

func (s *session) allReferrers() {
	for _, r := range s.content.referrers {
		a := s.get(s.base + "/referrers/" + r.subject.String())
		s.wantReferrers(a, r.name, r.all)
		s.header(a, "OCI-Filters-Applied", "")
	}
}

func (s *session) someReferrers() {
	for _, r := range s.content.referrers {
		for _, kind := range []string{typeSBOM, typeSignature, "application/vnd.example.nothing"} {
			some := slices.DeleteFunc(slices.Clone(r.all), func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
			a := s.get(s.base + "/referrers/" + r.subject.String() + "?artifactType=" + strings.ReplaceAll(kind, "+", "%2B"))
			s.wantReferrers(a, r.name, some)
			s.header(a, "OCI-Filters-Applied", "artifactType")
		}
	}
}

func (s *session) noReferrers() {
	for _, d := range []digest.Digest{digest.FromString("nobody"), digest.SHA512.FromString("nobody")} {
		a := s.get(s.base + "/referrers/" + d.String())
		if s.Cut && a.StatusCode >= 500 {
			continue
		}
		s.wantReferrers(a, "what nobody knows", nil)
	}
}

func (s *session) writes() {
	d := digest.FromString("x").String()
	for _, w := range [][2]string{
		{http.MethodPost, "/blobs/uploads/"}, {http.MethodPost, "/blobs/uploads/?mount=" + d + "&from=a/b"},
		{http.MethodPatch, "/blobs/uploads/1"}, {http.MethodPut, "/blobs/uploads/1?digest=" + d},
		{http.MethodPut, "/manifests/new"}, {http.MethodPut, "/manifests/" + d},
		{http.MethodDelete, "/manifests/image"}, {http.MethodDelete, "/manifests/" + d}, {http.MethodDelete, "/blobs/" + d},
	} {
		a := s.do(w[0], s.base+w[1])
		s.error(a, http.StatusMethodNotAllowed, "UNSUPPORTED")
		s.header(a, "Allow", "GET, HEAD")
	}
}

func (s *session) namespace() {
	for _, path := range []string{s.base + "/manifests/image", s.base + "/blobs/" + s.content.Blobs[0].Digest.String(), s.base + "/tags/list"} {
		s.header(s.get(path), "OCI-Namespace", s.Namespace)
	}
}
