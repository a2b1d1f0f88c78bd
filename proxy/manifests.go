package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
)

// serveManifest answers GET and HEAD of a manifest by tag or digest.
func (h *Handler) serveManifest(a *answer, r *http.Request, rt route, repo pull.Repository) error {
	found, err := repo.Manifest(r.Context(), rt.reference(), r.Method == http.MethodHead)
	if err != nil {
		return err
	}
	a.describe(found)
	a.set("Content-Type", found.MediaType)
	a.set("Docker-Content-Digest", found.Digest.String())
	etag := `"` + found.Digest.String() + `"`
	a.set("Etag", etag)
	if matches(r.Header.Get("If-None-Match"), etag) {
		a.head(http.StatusNotModified, -1)
		return nil
	}
	a.head(http.StatusOK, found.Size)
	return a.body(r, found.Body)
}

// describe records where a manifest or list comes from. A stale response says how
// old it is.
func (a *answer) describe(found freshness.Answer) {
	a.madeFrom(ofState[found.State])
	a.digest, a.size, a.trouble = found.Digest, found.Size, found.Trouble
	switch {
	case found.State == freshness.Earlier:
		a.set("Cache-Status", "hubcap; fwd=stale; detail=previous")
	case found.Deleted:
		a.set("Cache-Status", "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream")
	case a.result != resultStale && (found.Tag == freshness.Frozen || found.Tag == freshness.Cooling):
		a.set("Cache-Status", cacheStatus[a.result]+"; detail="+string(found.Tag))
	}
	if a.result == resultStale {
		a.set("Warning", `110 hubcap "Response is Stale"`)
	}
	if a.result == resultStale || a.held {
		a.set("Age", strconv.FormatInt(int64(found.Age.Seconds()), 10))
	}
}

// matches reports whether an If-None-Match names etag (RFC 9110, 13.1.2).
func matches(header, etag string) bool {
	if header == "" {
		return false
	}
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
		if one == "*" || one == etag {
			return true
		}
	}
	return false
}
