package fakehub

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	_ "crypto/sha256" // digests to be known by Digest.Validate
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// service is what Docker Hub's registry calls itself in challenges and tokens.
const service = "registry.docker.io"

var (
	pathPattern = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|referrers|tags)/([^/]+)$`)
	namePattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

// parseRegistry returns what a path of the registry requests.
func parseRegistry(path string) (kind Kind, repo, reference string) {
	if path == "/v2/" || path == "/v2" {
		return KindPing, "", ""
	}
	m := pathPattern.FindStringSubmatch(path)
	switch {
	case m == nil:
		return KindOther, "", ""
	case m[2] == "tags" && m[3] == "list":
		return KindTags, m[1], ""
	case m[2] == "tags":
		return KindOther, "", ""
	}
	return map[string]Kind{"manifests": KindManifest, "blobs": KindBlob, "referrers": KindReferrers}[m[2]], m[1], m[3]
}

// registry answers a request to the registry.
func (h *Hub) registry(r *http.Request, q *Request) *answer {
	a := h.registryAnswer(r, q)
	a.header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	return a
}

func (h *Hub) registryAnswer(r *http.Request, q *Request) *answer {
	if q.Kind == KindOther {
		return errorAnswer(http.StatusNotFound, "NOT_FOUND", "page not found")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errorAnswer(http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
	}
	if q.Kind != KindPing && (!namePattern.MatchString(q.Repo) || len(q.Repo) > 255) {
		return errorAnswer(http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
	}
	user, refusal := h.authorize(q)
	if refusal != nil {
		return refusal
	}
	switch q.Kind {
	case KindManifest:
		return h.manifestAnswer(r, q, user)
	case KindBlob:
		return h.blobAnswer(q)
	case KindTags:
		return h.tagsAnswer(r, q)
	case KindReferrers:
		return h.referrersAnswer(r, q)
	}
	return jsonAnswer(http.StatusOK, struct{}{})
}

// authorize returns the user ("" is anonymous) of a request, or its refusal.
func (h *Hub) authorize(q *Request) (string, *answer) {
	o := h.options.Load()
	if o.Anonymous {
		return "", nil
	}
	bearer, ok := strings.CutPrefix(q.Authorization, "Bearer ")
	if !ok {
		return "", h.challenge(q.Repo, "", "")
	}
	c, ok := h.tokens.verify(bearer, o.Clock())
	if !ok {
		return "", h.challenge(q.Repo, "", "invalid_token")
	}
	if q.Kind != KindPing && !c.allows(q.Repo) {
		return "", h.challenge(q.Repo, "", "insufficient_scope")
	}
	return c.Subject, nil
}

// challenge returns a 401 that sends the client to the token service, or to
// another realm when that is not empty.
func (h *Hub) challenge(repo, realm, reason string) *answer {
	if realm == "" {
		realm = h.TokenURL() + "/token"
	}
	value := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, service)
	var detail any
	if repo != "" {
		value += fmt.Sprintf(`,scope="repository:%s:pull"`, repo)
		detail = []map[string]string{{"Type": "repository", "Class": "", "Name": repo, "Action": "pull"}}
	}
	if reason != "" {
		value += fmt.Sprintf(`,error="%s"`, reason)
	}
	a := errorDetail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required", detail)
	a.header.Set("WWW-Authenticate", value)
	return a
}

// unknown returns the 404 of a repository without what is requested.
func (h *Hub) unknown(q *Request, code, message string) *answer {
	if !h.store.exists(q.Repo) {
		code, message = "NAME_UNKNOWN", "repository name not known to registry"
	}
	return errorDetail(http.StatusNotFound, code, message, map[string]string{"name": q.Repo, "reference": q.Reference})
}

// badDigest returns the 400 of a reference that looks like a digest and is
// none.
func badDigest() *answer {
	return errorAnswer(http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
}

func (h *Hub) manifestAnswer(r *http.Request, q *Request, user string) *answer {
	if strings.Contains(q.Reference, ":") && digest.Digest(q.Reference).Validate() != nil {
		return badDigest()
	}
	m, d, ok := h.store.manifest(q.Repo, q.Reference)
	limit := h.limit(q, user)
	var a *answer
	switch {
	case r.Method == http.MethodGet && limit.exhausted(ok):
		a = h.tooMany(user)
	case !ok:
		a = h.unknown(q, "MANIFEST_UNKNOWN", "manifest unknown")
	default:
		a = newAnswer(http.StatusOK, m.mediaType, bytesSource(m.body))
		a.header.Set("Docker-Content-Digest", d.String())
		a.header.Set("Etag", `"`+d.String()+`"`)
	}
	limit.describe(a.header)
	return a
}

func (h *Hub) blobAnswer(q *Request) *answer {
	d := digest.Digest(q.Reference)
	if d.Validate() != nil {
		return badDigest()
	}
	b := h.store.blob(q.Repo, d)
	if b == nil {
		return h.unknown(q, "BLOB_UNKNOWN", "blob unknown to registry")
	}
	if h.options.Load().DirectBlobs {
		a := blobBody(b, d)
		a.header.Set("Docker-Content-Digest", d.String())
		return a
	}
	a := newAnswer(http.StatusTemporaryRedirect, "application/octet-stream", bytesSource(nil))
	a.header.Set("Docker-Content-Digest", d.String())
	a.header.Set("Location", h.signedURL(d))
	return a
}

func (h *Hub) tagsAnswer(r *http.Request, q *Request) *answer {
	if !h.store.exists(q.Repo) {
		return h.unknown(q, "", "")
	}
	tags := h.store.tagNames(q.Repo)
	query := r.URL.Query()
	n := len(tags)
	if query.Has("n") {
		asked, err := strconv.Atoi(query.Get("n"))
		if err != nil || asked < 0 {
			return errorAnswer(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results requested")
		}
		n = asked
	}
	tags, link := h.page(q, query, tags, n)
	a := jsonAnswer(http.StatusOK, map[string]any{"name": q.Repo, "tags": append([]string{}, tags...)})
	if link != "" {
		a.header.Set("Link", link)
	}
	return a
}

// page returns the part of a sorted list after the query's last, at most n and
// Options.PageSize of it, and the link to what follows.
func (h *Hub) page(q *Request, query url.Values, list []string, n int) (page []string, link string) {
	if size := h.options.Load().PageSize; size > 0 {
		n = min(n, size)
	}
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(list, last)
		if found {
			i++
		}
		list = list[i:]
	}
	if n >= len(list) {
		return list, ""
	}
	if n > 0 {
		query.Set("n", strconv.Itoa(n))
		query.Set("last", list[n-1])
		link = fmt.Sprintf(`<%s?%s>; rel="next"`, q.Path, query.Encode())
	}
	return list[:n], link
}

func (h *Hub) referrersAnswer(r *http.Request, q *Request) *answer {
	if h.options.Load().NoReferrers {
		return errorAnswer(http.StatusNotFound, "NOT_FOUND", "page not found")
	}
	d := digest.Digest(q.Reference)
	if d.Validate() != nil {
		return badDigest()
	}
	found := h.store.referrers(q.Repo, d)
	filter := r.URL.Query().Get("artifactType")
	if filter != "" {
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return d.ArtifactType != filter })
	}
	var digests []string
	for _, d := range found {
		digests = append(digests, d.Digest.String())
	}
	page, link := h.page(q, r.URL.Query(), digests, len(digests))
	found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return !slices.Contains(page, d.Digest.String()) })
	a := jsonAnswer(http.StatusOK, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
	a.header.Set("Content-Type", ocispec.MediaTypeImageIndex)
	if link != "" {
		a.header.Set("Link", link)
	}
	if filter != "" {
		a.header.Set("OCI-Filters-Applied", "artifactType")
	}
	return a
}

// jsonAnswer returns an answer with a JSON body.
func jsonAnswer(status int, v any) *answer {
	return newAnswer(status, "application/json", bytesSource(encode(v)))
}

// errorAnswer returns an error in the form of the distribution specification.
func errorAnswer(status int, code, message string) *answer {
	return errorDetail(status, code, message, nil)
}

func errorDetail(status int, code, message string, detail any) *answer {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	return jsonAnswer(status, map[string][]item{"errors": {{code, message, detail}}})
}
