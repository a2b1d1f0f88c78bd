package proxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
)

// serveTags answers with the tags of a repository, or a page of them.
func (h *Handler) serveTags(a *answer, r *http.Request, rt route, repo pull.Repository) error {
	found, err := repo.Tags(r.Context())
	if errors.Is(err, pull.ErrNotKept) {
		return h.servePassed(a, r, rt, repo, "tags/list")
	}
	if err != nil {
		return err
	}
	tags := found.Body
	if rt.query.Has("n") || rt.query.Get("last") != "" {
		if tags, err = rt.page(a, found.Body); err != nil {
			return err
		}
	}
	name, err := json.Marshal(rt.given())
	if err != nil {
		return err
	}
	body := slices.Concat([]byte(`{"name":`), name, []byte(`,"tags":`), tags, []byte("}\n"))
	return a.list(r, found, "application/json", body)
}

// page returns the part of a JSON array of tags that the query asks for: at most
// n tags after the tag last, which need not exist. It sets the Link to the next
// page.
func (rt route) page(a *answer, all []byte) ([]byte, error) {
	var tags []string
	if err := json.Unmarshal(all, &tags); err != nil {
		return nil, err
	}
	if last := rt.query.Get("last"); last != "" {
		i, found := slices.BinarySearch(tags, last)
		if found {
			i++
		}
		tags = tags[i:]
	}
	if n, err := strconv.Atoi(rt.query.Get("n")); err == nil && n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			a.set("Link", rt.pageLink(url.Values{"n": {strconv.Itoa(n)}, "last": {tags[n-1]}}))
		}
	}
	return json.Marshal(tags)
}

// given returns the repository's name as it stands in the request's path: <name>
// in the specification.
func (rt route) given() string {
	_, rest, _ := cutVersion(rt.path)
	return strings.TrimSuffix(rest, "/tags/list")
}

// pageLink returns the Link to a page of the list, under the name that the
// client used.
func (rt route) pageLink(query url.Values) string {
	query.Del("ns")
	if rt.ns != "" {
		query.Set("ns", rt.ns)
	}
	return "<" + rt.path + "?" + query.Encode() + `>; rel="next"`
}

// serveReferrers answers with an index of the manifests that refer to a digest,
// filtered by artifact type if the client asks for one.
func (h *Handler) serveReferrers(a *answer, r *http.Request, rt route, repo pull.Repository) error {
	found, err := repo.Referrers(r.Context(), rt.digest)
	if errors.Is(err, pull.ErrNotKept) {
		return h.servePassed(a, r, rt, repo, "referrers/"+rt.digest.String())
	}
	if err != nil {
		return err
	}
	// A client can ask for any number of invented digests: they count as not found.
	a.notFound = found.State == freshness.Fetched && found.Empty()
	body := found.Body
	if artifactType := rt.query.Get("artifactType"); artifactType != "" {
		if body, err = filtered(body, artifactType); err != nil {
			return err
		}
		a.set("Oci-Filters-Applied", "artifactType")
	}
	return a.list(r, found, ocispec.MediaTypeImageIndex, body)
}

// filtered returns an index with only the descriptors of one artifact type.
func filtered(body []byte, artifactType string) ([]byte, error) {
	var index freshness.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(one json.RawMessage) bool {
		var d ocispec.Descriptor
		return json.Unmarshal(one, &d) != nil || d.ArtifactType != artifactType
	})
	return json.Marshal(index)
}

// list writes a response that was made from a list.
func (a *answer) list(r *http.Request, found freshness.Answer, mediaType string, body []byte) error {
	a.describe(found)
	a.size = int64(len(body))
	a.set("Content-Type", mediaType)
	a.head(http.StatusOK, a.size)
	return a.body(r, body)
}

// servePassed answers with the registry's own page: the list is too long to be
// cached, or the client's token has not been proved.
func (h *Handler) servePassed(a *answer, r *http.Request, rt route, repo pull.Repository, what string) error {
	got, err := repo.Pass(r.Context(), what, rt.query)
	if err != nil {
		return err
	}
	a.result = resultForwarded
	a.set("Cache-Status", "hubcap; fwd=bypass")
	a.set("Content-Type", got.MediaType)
	if got.Next != nil {
		a.set("Link", rt.pageLink(got.Next))
	}
	if got.Filters != "" {
		a.set("Oci-Filters-Applied", got.Filters)
	}
	a.head(http.StatusOK, int64(len(got.Body)))
	return a.body(r, got.Body)
}
