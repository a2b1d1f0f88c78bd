package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// serveManifest answers GET and HEAD of a manifest by tag or digest.
func (h *Handler) serveManifest(a *answer, r *http.Request, rt route) error {
	found, err := h.findManifest(r, rt)
	if err != nil {
		return err
	}
	if found, err = h.inTrouble(rt, found); err != nil {
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
	h.follow(r, rt, found)
	a.head(http.StatusOK, found.Size)
	return a.body(r, found.Body)
}

func (h *Handler) findManifest(r *http.Request, rt route) (freshness.Answer, error) {
	ctx, repo := r.Context(), h.repository(rt)
	head := r.Method == http.MethodHead
	switch {
	case rt.tag != "" && head:
		return h.Freshness.Head(ctx, repo, rt.tag)
	case rt.tag != "":
		return h.Freshness.Get(ctx, repo, rt.tag)
	case head:
		return h.Freshness.HeadDigest(ctx, repo, rt.digest)
	default:
		return h.Freshness.Digest(ctx, repo, rt.digest)
	}
}

// repository is where the question of a route goes.
func (h *Handler) repository(rt route) freshness.Repository {
	return freshness.Repository{
		Host: rt.upstream.Host, Name: rt.name, TTL: rt.upstream.TagTTL, StaleFor: h.staleFor(rt.as.view), Private: h.private(rt),
		Registry: func(ctx context.Context) freshness.Registry { return h.client(ctx, rt) },
	}
}

// staleFor is for how long what is held is served to a view while its registry
// fails.
func (h *Handler) staleFor(view access.View) time.Duration {
	switch view {
	case access.Own: // a grant that is alive lets in, and no other one does
		return -1
	case access.Shared:
		return h.StalePrivate
	default:
		return h.StalePublic
	}
}

// client is who asks the upstream for a route: with the box's credentials
// where the repository is shared, and else only where an anonymous client could
// have had the same.
func (h *Handler) client(ctx context.Context, rt route) *upstream.Client {
	switch rt.as.view {
	case access.Own:
		return rt.as.client
	case access.Shared:
		if own := rt.upstream.OwnOf(rt.name); own != nil {
			return own
		}
		return rt.upstream.Anonymous // it is shared, and the credentials are for others
	}
	if rt.isList() {
		return h.Identities.Known(rt.upstream, rt.name)
	}
	return h.Identities.Client(ctx, rt.upstream, rt.name, func(ctx context.Context, anybody *upstream.Client) error {
		return prove(ctx, rt, anybody)
	})
}

// describe says in the header where a manifest comes from (RFC 9211), and
// how old it is when that is not now.
func describe(a *answer, found freshness.Answer) metrics.Result {
	status, result := "hubcap; hit", metrics.ResultHit
	switch found.State {
	case freshness.Fresh:
	case freshness.Confirmed:
		status, result = "hubcap; fwd=stale; fwd-status=200", metrics.ResultConfirmed
	case freshness.Stale:
		status, result = "hubcap; fwd=stale; detail=upstream-failed", metrics.ResultStale
		if found.Deleted {
			status = "hubcap; fwd=stale; fwd-status=404; detail=deleted-upstream"
		}
		a.set("Warning", `110 hubcap "Response is Stale"`)
		a.set("Age", strconv.FormatInt(int64(found.Age.Seconds()), 10))
	case freshness.Earlier:
		status, result = "hubcap; fwd=stale; detail=previous", metrics.ResultStale
		a.set("Warning", `110 hubcap "Response is Stale"`)
		a.set("Age", strconv.FormatInt(int64(found.Age.Seconds()), 10))
	case freshness.Fetched:
		status, result = "hubcap; fwd=uri-miss; stored", metrics.ResultMiss
	case freshness.Joined:
		status, result = "hubcap; fwd=uri-miss; collapsed", metrics.ResultJoined
	case freshness.Passed:
		status, result = "hubcap; fwd=uri-miss", metrics.ResultPassed
	}
	a.set("Cache-Status", status)
	return result
}

// matches tells whether an If-None-Match names etag (RFC 9110, 13.1.2).
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

// follow learns from a manifest that a client was given what may be asked for
// next.
func (h *Handler) follow(r *http.Request, rt route, found freshness.Answer) {
	if found.State == freshness.Fetched {
		h.sizes.note(rt, blobsOf(found.Body))
	}
	h.Cache.UseImage(found.Digest)
	if r.Method == http.MethodHead {
		return
	}
	h.Prefetch.Manifest(rt.fullName(), found.Digest, func() (wants []cache.Want) {
		for _, one := range blobsOf(found.Body) {
			if !one.foreign() {
				wants = append(wants, h.want(rt, one.Digest, one.Size))
			}
		}
		return wants
	})
}

// descriptor is what a manifest says of a blob. In those that blobsOf returns,
// Size is negative where the manifest does not say it.
type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	URLs      []string      `json:"urls"`
	config    bool          // and of no layer
}

// foreign tells a blob that its manifest says is elsewhere.
func (d descriptor) foreign() bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable.")
}

// blobsOf reads the valid descriptors of an image's manifest: of the layers
// and of the config.
func blobsOf(manifest []byte) []descriptor {
	var m struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return nil
	}
	m.Config.config = true
	all := slices.DeleteFunc(append(m.Layers, m.Config), func(d descriptor) bool { return d.Digest.Validate() != nil })
	for i, d := range all {
		if d.Size <= 0 && d.Digest != d.Digest.Algorithm().FromBytes(nil) {
			all[i].Size = -1 // no content but the empty one has no bytes
		}
	}
	return all
}

// fullName is the name of a route's repository in the whole world.
func (rt route) fullName() string { return rt.upstream.Host + "/" + rt.name }

// sizesKept is how many blobs' promised sizes are remembered: the layers of
// some thousand images.
const sizesKept = 65_536

// sizes is what manifests say of the length of the blobs they name: a hint for
// how to ask a registry for one. It is given for the repository of the manifest
// only.
type sizes struct {
	known *lru.Cache[string, int64]
}

func newSizes() *sizes {
	known, err := lru.New[string, int64](sizesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &sizes{known: known}
}

func sizeKey(rt route, d digest.Digest) string {
	return rt.fullName() + "@" + d.String()
}

// note takes the sizes that a manifest gives.
func (s *sizes) note(rt route, blobs []descriptor) {
	for _, one := range blobs {
		if one.Size < 0 {
			continue
		}
		s.known.Add(sizeKey(rt, one.Digest), one.Size)
	}
}

// of is the size that a manifest gives a blob, negative when none did.
func (s *sizes) of(rt route) int64 {
	if size, known := s.known.Get(sizeKey(rt, rt.digest)); known {
		return size
	}
	return -1
}
