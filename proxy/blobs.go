package proxy

import (
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/pull"
)

// serveBlob answers GET and HEAD of a blob, whole or a range of it.
func (h *Handler) serveBlob(a *answer, r *http.Request, rt route, repo pull.Repository) error {
	etag := `"` + rt.digest.String() + `"`
	if r.Method == http.MethodHead {
		return h.serveBlobHead(a, r, rt, repo, etag)
	}
	blob, err := repo.Blob(r.Context(), rt.digest, rt.span.begin())
	if err != nil {
		return err
	}
	defer blob.Close()
	a.madeFrom(ofOrigin[blob.Origin])
	a.at(blob.Place)
	a.digest, a.size = rt.digest, blob.Size
	a.blobHeader(rt.digest, etag)
	if matches(r.Header.Get("If-None-Match"), etag) {
		a.head(http.StatusNotModified, -1)
		return nil
	}
	asked := rt.span
	if condition := r.Header.Get("If-Range"); blob.Size < 0 || blob.RecentlyWrong || condition != "" && condition != etag {
		asked = span{}
	}
	off, n, partial, ok := asked.of(blob.Size)
	switch {
	case !ok:
		a.set("Content-Range", fmt.Sprintf("bytes */%d", blob.Size))
		return errRange
	case partial:
		a.set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, blob.Size))
		a.head(http.StatusPartialContent, n)
	default:
		a.head(http.StatusOK, n)
	}
	if blob.Origin != cache.Held && n != 0 {
		if err := a.FlushError(); err != nil {
			return err
		}
	}
	return blob.Send(r.Context(), a, off, n)
}

// serveBlobHead answers HEAD of a blob. A blob that is not cached is not fetched.
func (h *Handler) serveBlobHead(a *answer, r *http.Request, rt route, repo pull.Repository, etag string) error {
	size, held, err := repo.BlobSize(r.Context(), rt.digest)
	if err != nil {
		return err
	}
	if held {
		a.madeFrom(resultHit)
	} else {
		a.madeFrom(resultForwarded)
	}
	a.blobHeader(rt.digest, etag)
	a.head(http.StatusOK, size)
	return nil
}

func (a *answer) blobHeader(d digest.Digest, etag string) {
	a.set("Content-Type", "application/octet-stream")
	a.set("Docker-Content-Digest", d.String())
	a.set("Etag", etag)
	a.set("Accept-Ranges", "bytes")
}
