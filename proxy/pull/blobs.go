package pull

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// Blob is an open blob of a repository, for one reader.
type Blob struct {
	*cache.Blob
	repository Repository
	want       cache.Want
	past       bool // read from the upstream although it is held, restricted
}

// Blob opens a blob, of which the bytes from off on will be read first. For one
// that is held and restricted the upstream is asked as this client. If it agrees,
// the held blob is served where it came from that upstream; otherwise the bytes
// have to come from there now.
func (r Repository) Blob(ctx context.Context, d digest.Digest, off int64) (Blob, error) {
	if r.held {
		return r.heldBlob(d)
	}
	if !r.peer {
		r.puller.o.Prefetch.Blob(r.FullName(), d)
	}
	size, _ := r.puller.o.Cache.Named(d)
	want := r.want(d, size)
	want.Off = off
	b, err := r.open(ctx, want)
	return b, r.heard(err)
}

func (r Repository) open(ctx context.Context, want cache.Want) (b Blob, err error) {
	held, f := r.puller.o.Cache, Reference{Digest: want.Digest, Blob: true}
	b = Blob{repository: r}
	if b.Blob, err = held.Open(ctx, want); !errors.Is(err, cache.ErrRestricted) {
		return b, err
	}
	size, err := r.prover(ctx, f).HeadBlob(ctx, r.Name, want.Digest)
	if err != nil {
		return b, err
	}
	if held.Confirm(want) {
		r.linkTo(want.Digest)
		want.Granted = true
		if b.Blob, err = held.Open(ctx, want); !errors.Is(err, cache.ErrRestricted) {
			return b, err
		}
	}
	want.Size = size
	b.Blob, b.want, b.past = held.Uncached(want), want, true
	return b, nil
}

// Send writes n bytes of the blob from off on to w; see cache.Blob.
func (b Blob) Send(ctx context.Context, w cache.Sink, off, n int64) error {
	if err := b.Blob.Send(ctx, w, off, n); err != nil {
		return err
	}
	if b.past && (n < 0 || off+n == b.Size) { // the whole of it came from this repository
		b.repository.puller.o.Cache.Proved(b.want)
		b.repository.linkTo(b.want.Digest)
	}
	return nil
}

// BlobSize returns the size of a blob in bytes, negative where the upstream does
// not say it, and whether the blob is held. Nothing is fetched.
func (r Repository) BlobSize(ctx context.Context, d digest.Digest) (size int64, held bool, err error) {
	blob, held, err := r.puller.o.Cache.Held(r.want(d, -1))
	if held {
		defer blob.Close()
		return blob.Size, true, nil
	}
	if r.held {
		return 0, false, ErrUnheld
	}
	restricted, ask := errors.Is(err, cache.ErrRestricted), r.client
	if restricted {
		ask = r.prover
	} else if size, known := r.sizeInTier(ctx, d); known {
		return size, false, nil
	}
	size, err = askForBlob(r, http.MethodHead, d, func() (int64, error) {
		return ask(ctx, Reference{Digest: d, Blob: true}).HeadBlob(ctx, r.Name, d)
	})
	if err != nil && r.failing(err) {
		if size, none := r.puller.o.Site.HeldSize(ctx, r.Upstream.Host, r.Name, d); none == nil {
			return size, false, nil
		}
	}
	if err != nil {
		return 0, false, r.heard(err)
	}
	if restricted && r.puller.o.Cache.Confirm(r.want(d, size)) {
		r.linkTo(d)
	}
	return size, false, nil
}

// has reports whether a blob is held, or being filled, and the client may see it.
func (r Repository) has(d digest.Digest) bool { return r.puller.o.Cache.Has(r.want(d, -1)) }

// want describes a blob of the repository to the cache.
func (r Repository) want(d digest.Digest, size int64) cache.Want {
	restricted := r.View.Restricted()
	want := cache.Want{
		Digest: d, Size: size, Host: r.Upstream.Host, Source: r.source(d), Near: r.near(d, size), Peer: r.peer,
		Restricted: restricted, Granted: restricted && r.puller.o.Links.Linked(r.Upstream.Host, r.Name, d),
	}
	if restricted {
		want.Repository = r.FullName()
	}
	return want
}

// source is a blob at its upstream, as the cache reads it. Two are equal when
// they ask the same upstream with the same client's credentials.
type source struct {
	Repository
	digest digest.Digest
}

// Open implements cache.Source.
func (s source) Open(ctx context.Context, off, n int64) (*cache.Stream, error) {
	if cache.Repeats(ctx) {
		ctx = upstream.Once(ctx)
	}
	blob, err := askForBlob(s.Repository, http.MethodGet, s.digest, func() (*upstream.Blob, error) {
		return s.client(ctx, Reference{Digest: s.digest, Blob: true}).OpenBlob(ctx, s.Name, s.digest, off, n)
	})
	if err != nil {
		return s.openElsewhere(ctx, s.digest, off, n, err)
	}
	s.linkTo(s.digest)
	return &cache.Stream{Body: blob.Body, Off: blob.Off, End: blob.End, Size: blob.Size, Part: blob.Part}, nil
}

// askForBlob asks an upstream about a blob by method, unless it answered a
// moment ago that it does not have it. Some registries answer HEAD with 404 and
// GET as they should, so that a GET is answered only by what a GET was told.
// What an upstream answers to one client's token says nothing to other clients.
func askForBlob[T any](r Repository, method string, d digest.Digest, ask func() (T, error)) (got T, err error) {
	if r.View != access.Open {
		return ask()
	}
	absent, key := r.puller.absent, r.key(d)
	if err = absent.Of(key); err == nil && method == http.MethodHead {
		err = absent.Of(method + " " + key)
	}
	if err != nil {
		return got, err
	}
	if got, err = ask(); freshness.NotFound(err) {
		if method == http.MethodHead {
			key = method + " " + key
		}
		absent.Note(key, err, freshness.NotFoundFor)
	}
	return got, err
}
