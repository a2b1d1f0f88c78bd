package site

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/upstream/network"
)

// errWrong says that a box gave bytes that do not hash to their digest.
var errWrong = errors.New("it gave wrong bytes")

// Blob returns the boxes of the site as places for a blob of the repository name at the
// registry host; nil while this box is the one to ask the registry.
func (s *Site) Blob(host, name string, d digest.Digest) cache.Nearer {
	if s == nil || len(s.before(d)) == 0 {
		return nil
	}
	return near{site: s, host: host, name: name, digest: d}
}

// Sisters returns the sisters as places for a blob of size bytes, negative if that is not
// known; nil if none is to be asked.
func (s *Site) Sisters(host, name string, d digest.Digest, size int64) cache.Nearer {
	if s == nil || !s.asksSisters(size) {
		return nil
	}
	return near{site: s, host: host, name: name, digest: d, sisters: true}
}

// near is boxes that a blob may be had from.
type near struct {
	site       *Site
	host, name string
	digest     digest.Digest
	sisters    bool // in place of the boxes of the site
}

// Boxes implements cache.Nearer. Sisters give what they hold, and wait for nobody.
func (n near) Boxes() bool { return !n.sisters }

// asked returns the boxes that are asked, in order.
func (n near) asked() []*box {
	if n.sisters {
		return n.site.awake(n.site.sisters)
	}
	return n.site.before(n.digest)
}

// Places implements cache.Nearer.
func (n near) Places() (places []cache.Place) {
	for _, b := range n.asked() {
		places = append(places, *n.site.placeOf(b, source{n, b}))
	}
	return places
}

// placeOf returns a box as a place for what from gives.
func (s *Site) placeOf(b *box, from cache.Source) *cache.Place {
	return &cache.Place{Source: from, Name: b.name, Kind: b.place.String(), Wrong: func() { s.rest(b, restWrong, errWrong) }}
}

// source is a blob at one box.
type source struct {
	near
	box *box
}

// Open implements cache.Source.
func (s source) Open(ctx context.Context, off, n int64) (*cache.Stream, error) {
	q := question{host: s.host, path: s.name + "/blobs/" + s.digest.String(), header: network.Range(off, n)}
	if s.box.sister() {
		q.held = s.site.o.SisterTime
	}
	return s.site.open(ctx, s.box, q)
}

// open asks a box for a blob, or a part of it.
func (s *Site) open(ctx context.Context, b *box, q question) (*cache.Stream, error) {
	resp, err := s.ask(ctx, b, q) //nolint:bodyclose // whoever gets the stream closes it
	if err != nil {
		return nil, err
	}
	stream := &cache.Stream{Body: resp.Body, End: resp.ContentLength, Size: resp.ContentLength}
	if stream.Part = resp.StatusCode == http.StatusPartialContent; stream.Part {
		stream.Off, stream.End, stream.Size, _ = network.ContentRange(resp.Header.Get("Content-Range"))
	}
	return stream, nil
}
