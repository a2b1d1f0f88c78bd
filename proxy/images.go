package proxy

import (
	"net/http"

	"hubcap/proxy/access"
	"hubcap/proxy/images"
	"hubcap/proxy/outage"
)

// Images notes which images are pulled.
type Images interface {
	// Given takes a manifest that a client was given, or a blob that it asked for.
	Given(a images.Answer)
}

// Drill counts which pulls would have survived an outage.
type Drill interface {
	// Answered takes an answer about a manifest or blob that there is.
	Answered(a outage.Answer)
}

// drill tells the drill of an answer. What a client sees with a token of its own is
// not the box's to keep, a client that has left has no answer, and what another box asks for
// is its own clients' pull.
func (h *Handler) drill(a *answer, r *http.Request, rt route) {
	manifest := rt.kind == kindManifest
	if rt.upstream == nil || a.notAllowed || a.view == access.Own || rt.peer || !manifest && rt.kind != kindBlob || r.Context().Err() != nil {
		return
	}
	held := false
	switch a.result {
	case resultHit, resultConfirmed, resultStale:
		held = true
	case resultLocal, resultNotFound, resultRefused:
		return
	}
	h.Drill.Answered(outage.Answer{
		Client: a.client, Registry: rt.upstream.Host, Repository: rt.name, Tag: rt.tag, Manifest: manifest, Held: held,
	})
}

// noteImage notes what a client was given, or which blob it asked for. What is a
// client's own to see is no image of the box, and what
// another box asks for is noted there.
func (h *Handler) noteImage(a *answer, r *http.Request, rt route) {
	if rt.upstream == nil || a.notAllowed || a.view == access.Own || rt.peer {
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
