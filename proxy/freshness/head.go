package freshness

import (
	"cmp"
	"context"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream"
)

// Some registries, and balancers before them, answer HEAD with an error and GET
// correctly. So a failed HEAD is not believed where a GET may succeed.

// errNoHead means that a HEAD brought no usable answer and that GET is to be
// used.
var errNoHead = errors.New("no usable answer to HEAD")

// headUnknown sends the HEAD for a tag or digest of which nothing is held; key is
// its key. An answer that there is nothing is remembered, for HEAD only.
func (r *Resolver) headUnknown(ctx context.Context, repo Repository, reference, key string) (upstream.Descriptor, error) {
	byHead := "head " + key
	if err := cmp.Or(r.failures.Of(key), r.failures.Of(byHead)); err != nil {
		return upstream.Descriptor{}, err
	}
	d, err := r.head(ctx, repo, reference, key)
	return d, r.remember(repo, byHead, err)
}

// headKnown sends the HEAD for a known tag. A refusal has to be confirmed by GET
// before the tag is forgotten: it is errNoHead.
func (r *Resolver) headKnown(ctx context.Context, repo Repository, tag string) (upstream.Descriptor, error) {
	d, err := r.head(ctx, repo, tag, repo.tag(tag).String())
	if upstream.IsKind(err, upstream.NotFound, upstream.Withdrawn, upstream.Denied) {
		r.doubt(repo, repo.tag(tag).String(), err)
		return d, errNoHead
	}
	return d, err
}

// head sends the HEAD for a tag or digest; key is its key. An answer that is
// unusable is errNoHead: the registry does not support HEAD, names no digest, or
// fails in a way that may be particular to HEAD. The repository is then not
// asked by HEAD for noHeadFor, once a GET has succeeded where that is in doubt.
func (r *Resolver) head(ctx context.Context, repo Repository, reference, key string) (upstream.Descriptor, error) {
	if err := r.failures.Of(noHead(repo)); err != nil {
		return upstream.Descriptor{}, err
	}
	d, err := repo.Registry(ctx).HeadManifest(ctx, repo.Name, reference)
	var e *upstream.Error
	switch {
	case err == nil && (d.Digest == "" && digest.Digest(reference).Validate() != nil || !isManifest(d.MediaType) || d.Size <= 0),
		errors.As(err, &e) && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented):
		r.failures.Note(noHead(repo), errNoHead, noHeadFor)
		return d, errNoHead
	case r.onlyHeadMayFail(repo, e):
		r.doubt(repo, key, err)
		return d, errNoHead
	}
	return d, err
}

func noHead(repo Repository) string { return "no head " + repo.key() }

// isManifest reports whether a media type may be that of a manifest: JSON of a
// named format.
func isManifest(mediaType string) bool {
	plain, _, err := mime.ParseMediaType(mediaType)
	return err == nil && strings.HasPrefix(plain, "application/") && strings.HasSuffix(plain, "+json")
}

// onlyHeadMayFail reports whether a HEAD has failed where a GET may succeed: the
// answer breaks the protocol, or a redirect's target is signed for GET only, or
// the registry has an internal error. The last is usually an outage, so GET is
// tried for it once in noHeadFor.
func (r *Resolver) onlyHeadMayFail(repo Repository, e *upstream.Error) bool {
	switch {
	case e == nil || errors.Is(e, upstream.ErrSchema1):
		return false
	case e.Kind == upstream.Invalid, e.Kind == upstream.ServerError && e.Status >= 400 && e.Status < 500:
		return true
	case e.Status != http.StatusInternalServerError:
		return false
	}
	tried := "tried " + noHead(repo)
	if r.failures.Of(tried) != nil {
		return false
	}
	r.failures.Note(tried, e, noHeadFor)
	return true
}

// doubt records why GET is used instead of HEAD: if the GET succeeds, the
// repository is not asked by HEAD for noHeadFor.
func (r *Resolver) doubt(repo Repository, key string, err error) {
	r.failures.Note(repo.question("doubt", key), err, NotFoundFor)
}

// settle records that a GET succeeded.
func (r *Resolver) settle(repo Repository, key string) {
	doubt := repo.question("doubt", key)
	if r.failures.Of(doubt) != nil {
		r.failures.Forget(doubt)
		r.failures.Note(noHead(repo), errNoHead, noHeadFor)
	}
}
