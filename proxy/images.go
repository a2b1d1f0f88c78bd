package proxy

import (
	"net/http"

	"hubcap/proxy/access"
	"hubcap/proxy/images"
)

// Images notes which images are pulled.
type Images interface {
	// Given takes a manifest that a client was given, or a blob that it asked for.
	Given(a images.Answer)
}

// noteImage notes what a client was given, or which blob it asked for. What is a
// client's own to see is no image of the box.
func (h *Handler) noteImage(a *answer, r *http.Request, rt route) {
	if rt.upstream == nil || a.notAllowed || a.view == access.Own {
		return
	}
	given := images.Answer{Registry: rt.upstream.Host, Repository: rt.name, Head: r.Method == http.MethodHead}
	switch {
	case rt.kind == kindBlob:
		given.Blob, given.Digest = true, rt.digest
	case rt.kind == kindManifest && a.digest != "" && a.status > 0 && a.status < http.StatusBadRequest:
		given.Tag, given.Digest = rt.tag, a.digest
		given.Head = given.Head || a.status == http.StatusNotModified
	default:
		return
	}
	h.Images.Given(given)
}
