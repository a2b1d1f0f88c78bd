package proxy

import (
	"net/http"

	"hubcap/proxy/bypass"
)

// watch tells package bypass of an answer that concerns a pull. Of a client that
// left before its answer began there is nothing to tell.
func (h *Handler) watch(a *answer, r *http.Request, rt route, err error) {
	if rt.kind == kindOther || a.status == 0 || rt.peer {
		return
	}
	seen := bypass.Answer{
		Client: a.client, Family: a.family, Kind: watchedKind(rt.kind), Head: r.Method == http.MethodHead,
		Repository: rt.name, Tag: rt.tag, Digest: rt.digest.String(), Path: rt.path, NS: rt.ns != "", Named: rt.named,
		Status: a.status, Whole: err == nil, Why: a.why(), Bytes: a.sent, Took: a.took,
	}
	if rt.upstream != nil {
		seen.Registry = rt.upstream.Host
	}
	h.Bypass.Answered(seen)
}

func watchedKind(k kind) bypass.Kind {
	switch k {
	case kindPing:
		return bypass.Ping
	case kindManifest:
		return bypass.Manifest
	case kindBlob:
		return bypass.Blob
	default:
		return bypass.List
	}
}

// why returns why an answer makes clients leave.
func (a *answer) why() bypass.Why {
	if a.cut {
		return bypass.Cut
	}
	if a.notAllowed {
		return bypass.NotAllowed
	}
	switch a.refusal {
	case nil, errRange, errUnauthorized: // the client is served, or asked to log in
		return bypass.None
	case errUnknownRegistry, errTwoRegistries:
		return bypass.UnknownRegistry
	case errIncomplete:
		return bypass.Incomplete
	case errLimited, errOverLimit:
		return bypass.Limited
	}
	switch a.refusal.result {
	case resultNotFound:
		return bypass.NotFound
	case resultRefused:
		return bypass.Refused
	default:
		return bypass.Failed
	}
}
