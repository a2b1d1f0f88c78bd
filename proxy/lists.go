package proxy

import (
	"net/http"
	"net/url"

	"hubcap/metrics"
)

// servePassed answers with what the registry says now: the tags of a
// repository, the referrers of a manifest.
func (h *Handler) servePassed(a *answer, r *http.Request, rt route) error {
	what := "tags/list"
	if rt.kind == metrics.KindReferrers {
		what = "referrers/" + rt.digest.String()
	}
	got, err := h.client(r.Context(), rt).Get(r.Context(), rt.name, what, rt.query)
	if err != nil {
		return err
	}
	a.result = metrics.ResultPassed
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

// pageLink is the link to a page of what a route asks for, by the name that
// the client used.
func (rt route) pageLink(query url.Values) string {
	query.Del("ns")
	if rt.ns != "" {
		query.Set("ns", rt.ns)
	}
	return "<" + rt.path + "?" + query.Encode() + `>; rel="next"`
}
