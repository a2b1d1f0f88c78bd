package proxy

import (
	"net/http"
	"net/url"
	"strings"

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
	if next := rt.nextPage(got.Link); next != "" {
		a.set("Link", next)
	}
	if got.Filters != "" {
		a.set("Oci-Filters-Applied", got.Filters)
	}
	a.head(http.StatusOK, int64(len(got.Body)))
	return a.body(r, got.Body)
}

// nextPage rewrites a registry's link to its next page so that it leads back
// here, by the name that the client used.
func (rt route) nextPage(link string) string {
	target, parameters, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(parameters, "next") {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	query := u.Query()
	if rt.ns != "" {
		query.Set("ns", rt.ns)
	}
	here := url.URL{Path: rt.path, RawQuery: query.Encode()}
	return "<" + here.String() + `>; rel="next"`
}
