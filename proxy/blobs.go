package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// serveBlob answers GET and HEAD of a blob, whole or a range of it.
func (h *Handler) serveBlob(a *answer, r *http.Request, rt route) error {
	etag := `"` + rt.digest.String() + `"`
	if r.Method == http.MethodHead {
		return h.serveBlobHead(a, r, rt, etag)
	}
	h.Prefetch.Blob(rt.fullName(), rt.digest)
	want := h.want(rt, rt.digest, h.sizes.of(rt))
	want.Off = rt.span.begin()
	blob, past, err := h.openBlob(r.Context(), rt, want)
	if err != nil {
		return err
	}
	defer blob.Close()
	a.result, a.size = describeBlob(a, blob.Origin), blob.Size
	a.blobHeader(rt.digest, etag)
	if matches(r.Header.Get("If-None-Match"), etag) {
		a.head(http.StatusNotModified, -1)
		return nil
	}
	asked := rt.span
	if condition := r.Header.Get("If-Range"); blob.Size < 0 || blob.Suspect || condition != "" && condition != etag {
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
	if err := blob.Send(r.Context(), a, off, n); err != nil {
		return err
	}
	if past && (n < 0 || off+n == blob.Size) {
		h.proved(rt, want)
	}
	return nil
}

// serveBlobHead describes a blob without fetching it.
func (h *Handler) serveBlobHead(a *answer, r *http.Request, rt route, etag string) error {
	var size int64
	blob, ok, err := h.Cache.Held(h.want(rt, rt.digest, -1))
	if ok {
		size = blob.Size
		blob.Close()
		a.result = describeBlob(a, cache.Held)
	} else {
		closed, who := errors.Is(err, cache.ErrClosed), h.client
		if closed {
			who = h.witness
		}
		size, err = askForBlob(h, rt, func() (int64, error) {
			return who(r.Context(), rt).HeadBlob(r.Context(), rt.name, rt.digest)
		})
		if err != nil {
			return err
		}
		if closed && h.Cache.Confirm(h.want(rt, rt.digest, size)) {
			h.linkTo(rt)
		}
		a.result = metrics.ResultPassed
		a.set("Cache-Status", "hubcap; fwd=uri-miss")
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

// describeBlob says in the header where a blob comes from (RFC 9211).
func describeBlob(a *answer, from cache.Origin) metrics.Result {
	status, result := "hubcap; hit", metrics.ResultHit
	switch from {
	case cache.Held:
	case cache.Filling:
		status, result = "hubcap; fwd=uri-miss; stored", metrics.ResultMiss
	case cache.Joined:
		status, result = "hubcap; fwd=uri-miss; collapsed", metrics.ResultJoined
	case cache.Passing:
		status, result = "hubcap; fwd=uri-miss; detail=not-kept", metrics.ResultUncached
	}
	a.set("Cache-Status", status)
	return result
}

// want is a blob of a route's repository.
func (h *Handler) want(rt route, d digest.Digest, size int64) cache.Want {
	want := cache.Want{
		Digest: d, Size: size, Host: rt.upstream.Host,
		Source: source{h, blobOrigin{rt.upstream.Host, rt.name, d}, rt.as},
		Closed: rt.as.view.Closed(), Granted: h.granted(rt, d),
	}
	if want.Closed {
		want.Repository = rt.fullName()
	}
	return want
}

// askForBlob asks a registry for a route's blob, unless it said a moment ago
// that it has none.
func askForBlob[T any](h *Handler, rt route, ask func() (T, error)) (T, error) {
	question := sizeKey(rt, rt.digest)
	open := rt.as.view == access.Open // else the answer is that of who asks
	if open {
		if err := h.absent.Of(question); err != nil {
			var none T
			return none, err
		}
	}
	got, err := ask()
	if open && freshness.Absent(err) {
		h.absent.Note(question, err, freshness.AbsentFor)
	}
	return got, err
}

// blobOrigin says where a blob is asked for: it is equal for two requests that
// ask in the same place.
type blobOrigin struct {
	host, name string
	digest     digest.Digest
}

// source is a registry's blob as the cache reads it.
type source struct {
	h *Handler
	blobOrigin
	as asker
}

// Open implements cache.Source.
func (s source) Open(ctx context.Context, off, n int64) (*cache.Stream, error) {
	up, ok := s.h.Upstreams.Find(s.host)
	if !ok {
		return nil, errUnknownRegistry
	}
	rt := route{kind: metrics.KindBlob, upstream: up, name: s.name, digest: s.digest, as: s.as}
	blob, err := askForBlob(s.h, rt, func() (*upstream.Blob, error) {
		return s.h.client(ctx, rt).OpenBlob(ctx, s.name, s.digest, off, n)
	})
	if err != nil {
		return nil, err
	}
	s.h.linkTo(rt)
	return &cache.Stream{Body: blob.Body, Off: blob.Off, End: blob.End, Size: blob.Size}, nil
}
