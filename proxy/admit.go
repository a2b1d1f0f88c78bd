package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// asker is on whose behalf a repository is looked at.
type asker struct {
	view   access.View
	client *upstream.Client // that asks with the client's own token; nil but for access.Own
	id     access.Asker     // of that token in the repository
	barred bool             // from what is held: the token has not been seen to open it
}

// Login is the handler of a port at which clients can log in to the registries
// that let them do so through hubcap.
func (h *Handler) Login() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, door{def: h.Upstreams.Default(), login: true})
	})
}

// admit tells how the client sees the repository it asks for. Its own token is
// tried at the registry before anything that is held is looked at.
func (h *Handler) admit(a *answer, r *http.Request, rt route, login bool) (asker, error) {
	as := asker{view: access.ViewOf(rt.upstream, rt.name, login)}
	if as.view != access.Open {
		h.Metrics.Closed(as.view.String())
	}
	switch as.view {
	case access.Denied:
		return as, errRepositoryDenied
	case access.Hidden:
		return as, unknown(rt.kind)
	case access.Own:
	default:
		return as, nil
	}
	token := bearer(r)
	as.client, as.id = rt.upstream.Relay.As(token), h.Grants.Asker(token, rt.fullName())
	if h.Grants.Alive(as.id) {
		return as, nil
	}
	if rt.isList() {
		as.barred = true
		return as, nil
	}
	if err := h.mayAsk(a); err != nil {
		return as, err
	}
	err := prove(r.Context(), rt, as.client)
	if err == nil {
		h.Grants.Granted(as.id)
	}
	return as, err
}

// isList tells what proves nothing: registries know a right to see what there is
// in a repository that is none to pull it. Who has not been seen to pull from
// it is given the list that the registry has for him.
func (rt route) isList() bool { return rt.kind != metrics.KindBlob && rt.kind != metrics.KindManifest }

// prove has the registry tell whether who asks may pull what the route names.
func prove(ctx context.Context, rt route, who *upstream.Client) (err error) {
	switch {
	case rt.kind == metrics.KindBlob:
		_, err = who.HeadBlob(ctx, rt.name, rt.digest)
	case rt.tag == "":
		_, err = who.HeadManifest(ctx, rt.name, rt.digest.String())
	default:
		_, err = who.HeadManifest(ctx, rt.name, rt.tag)
	}
	return err
}

// bearer is the token that a client shows. A password is none of hubcap's
// business, and counts as nothing shown.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return token
}

// pingOwn answers GET /v2/ of a registry that clients log in to.
func (h *Handler) pingOwn(a *answer, r *http.Request, rt route) error {
	if err := rt.upstream.Relay.As(bearer(r)).Ping(r.Context()); err != nil {
		return err
	}
	return h.servePing(a, r)
}

// private is what freshness needs to know of a repository that is not for
// everybody; nil for one that is.
func (h *Handler) private(rt route) *freshness.Private {
	if !rt.as.view.Closed() {
		return nil
	}
	p := &freshness.Private{Links: links{h.Links, rt.fullName()}}
	if rt.as.view == access.Own {
		p.Asker = hex.EncodeToString(rt.as.id[:])
	}
	return p
}

// links are those of one repository.
type links struct {
	all        *access.Links
	repository string
}

// Linked implements freshness.Links.
func (l links) Linked(d digest.Digest) bool { return l.all.Linked(l.repository, d) }

// Link implements freshness.Links.
func (l links) Link(d digest.Digest) { l.all.Link(l.repository, d) }

// granted tells whether the client may have d, were it closed.
func (h *Handler) granted(rt route, d digest.Digest) bool {
	return rt.as.view.Closed() && h.Links.Linked(rt.fullName(), d)
}

// openBlob opens a blob for a route. One that is held for others has to be
// asked for as this client, and is given where the registry it came from
// agrees; where another one does, it has to come from there.
func (h *Handler) openBlob(ctx context.Context, rt route, want cache.Want) (blob *cache.Blob, past bool, err error) {
	blob, err = h.Cache.Open(ctx, want)
	if !errors.Is(err, cache.ErrClosed) {
		return blob, false, err
	}
	size, err := h.witness(ctx, rt).HeadBlob(ctx, rt.name, rt.digest)
	if err != nil {
		return nil, false, err
	}
	if h.Cache.Confirm(want) {
		h.linkTo(rt)
		want.Granted = true
		if blob, err = h.Cache.Open(ctx, want); !errors.Is(err, cache.ErrClosed) {
			return blob, false, err
		}
	}
	want.Size = size
	return h.Cache.Past(want), true, nil
}

// witness is who asks the registry whether a route's client may have what is
// held for others. What becomes everybody's then has to be had by anybody: the
// box's credentials would see a repository that has been closed since it was
// last shown to be public.
func (h *Handler) witness(ctx context.Context, rt route) *upstream.Client {
	if rt.as.view == access.Open {
		return rt.upstream.Anonymous
	}
	return h.client(ctx, rt)
}

// linkTo notes that a route's repository has its blob.
func (h *Handler) linkTo(rt route) {
	if rt.as.view.Closed() {
		h.Links.Link(rt.fullName(), rt.digest)
	}
}

// proved notes that the whole of a blob came from a route's registry.
func (h *Handler) proved(rt route, want cache.Want) {
	h.Cache.Proved(want)
	h.linkTo(rt)
}
