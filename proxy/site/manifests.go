package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream"
)

// ErrNone says that no box has given what was asked for.
var ErrNone = errors.New("no box of the site gives it")

// Manifest returns a manifest of the repository name at the registry host from the
// box that owns it, or from the next one that lives. The error is ErrNone, also while
// this box is the one to ask the registry, or ctx's.
func (s *Site) Manifest(ctx context.Context, host, name string, d digest.Digest) (upstream.Manifest, error) {
	if !s.HasBoxes() {
		return upstream.Manifest{}, ErrNone
	}
	for _, b := range s.before(d) {
		m, err := s.manifestOf(ctx, b, question{host: host, path: name + "/manifests/" + d.String()}, d)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return upstream.Manifest{}, context.Cause(ctx)
		}
		s.o.Log.Debug("a box does not give a manifest", "box", b.name, "digest", d, "err", err)
	}
	return upstream.Manifest{}, ErrNone
}

// manifestOf asks one box for a manifest, which has to hash to d.
func (s *Site) manifestOf(ctx context.Context, b *box, q question, d digest.Digest) (upstream.Manifest, error) {
	m, _, err := s.document(ctx, b, q, func(http.Header) digest.Digest { return d })
	return m, err
}

// document asks a box for a manifest, or a list, that has to hash to what of returns for
// the answer's header; it is not compared where that is empty.
func (s *Site) document(ctx context.Context, b *box, q question, of func(http.Header) digest.Digest) (upstream.Manifest, http.Header, error) {
	q.header = http.Header{"Accept": {"*/*"}}
	resp, err := s.ask(ctx, b, q)
	if err != nil {
		return upstream.Manifest{}, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, s.o.MaxManifest+1))
	if err != nil {
		return upstream.Manifest{}, nil, err
	}
	d := of(resp.Header)
	if d == "" {
		return upstream.Manifest{Body: body}, resp.Header, nil
	}
	m, err := upstream.ManifestOf(d, resp.Header.Get("Content-Type"), body)
	if err != nil {
		s.rest(b, restWrong, fmt.Errorf("%w: %w", errWrong, err))
	}
	return m, resp.Header, err
}
