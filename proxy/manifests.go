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
	a.result, a.size, a.trouble = describe(a, found), found.Size, found.Trouble
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

// describe sets Cache-Status (RFC 9211) to where a manifest or list comes from,
// and Age if it is stale.
func describe(a *answer, found freshness.Answer) result {
	status, result := "hubcap; hit", resultHit
	switch found.State {
	case freshness.Fresh:
	case freshness.Confirmed:
		status, result = "hubcap; fwd=stale; fwd-status=200", resultConfirmed
	case freshness.Stale:
		status, result = "hubcap; fwd=stale; detail=upstream-failed", resultStale
		if found.Deleted {
			status = "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream"
		}
		a.set("Warning", `110 hubcap "Response is Stale"`)
		a.set("Age", strconv.FormatInt(int64(found.Age.Seconds()), 10))
	case freshness.Earlier:
		status, result = "hubcap; fwd=stale; detail=previous", resultStale
		a.set("Warning", `110 hubcap "Response is Stale"`)
		a.set("Age", strconv.FormatInt(int64(found.Age.Seconds()), 10))
	case freshness.Fetched:
		status, result = "hubcap; fwd=uri-miss; stored", resultMiss
	case freshness.Joined:
		status, result = "hubcap; fwd=uri-miss; collapsed", resultJoined
	case freshness.HeadOnly:
		status, result = "hubcap; fwd=uri-miss", resultForwarded
	}
	a.set("Cache-Status", status)
	return result
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
