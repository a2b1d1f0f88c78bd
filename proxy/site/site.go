// Package site knows the other boxes: those of its site, and sisters, which are
// boxes of other sites. It asks them for content as a client of their mirror ports
// does. Each blob has an owner among the boxes of a site, who asks the registry; the
// others ask the owner, or whoever is next while the owner does not answer. The
// package knows neither the cache nor who asks, and believes nothing that a box says
// about bytes. What a box says of tags is for its caller to believe, or not.
//
// No box waits for itself, however the lists of the boxes differ: what a box asks
// for carries Via, and who is asked so passes it on to no other box and joins
// nothing that a box may feed (fill.ErrFed). What is asked for with only-if-cached is
// fetched by nobody.
//
// Files: site.go (the boxes), transport.go (connections), order.go (who owns what),
// self.go (which box this is), box.go (one box, and whether it is asked now), ask.go
// (a request), silence.go (a box that sends nothing), blobs.go and manifests.go (what
// is asked for), held.go (what is asked of all boxes while a registry fails),
// sisters.go, via.go (who asks), look.go (what the boxes are found to be), status.go.
package site

import (
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// Options is what a Site needs; every field but Boxes, and Sisters with SisterTime, is required.
type Options struct {
	Boxes       []*url.URL            // the mirror ports of the site's boxes, the same on each, this one among them; none for a box of its own
	Self        int                   // which of Boxes this one is
	Sisters     []*url.URL            // the mirror ports of boxes of other sites
	SisterTime  time.Duration         // until a sister's answer begins, from when it is connected
	BoxTime     time.Duration         // each: until a box or a sister is connected, and until a box of the site says that it lives, or whether it holds something
	RootCAs     func() *x509.CertPool // the authorities that are trusted now, as one pool until they change; the pool is nil for the system's
	UserAgent   string
	Longest     time.Duration // that a living box may take for its next byte
	MaxManifest int64         // bytes
	Now         func() time.Time
	Metrics     *metrics.Site
	Log         *slog.Logger
}

// Site is the other boxes. Its methods are safe for concurrent use; those of nil
// know no other box.
type Site struct {
	o       Options
	boxes   []*box // of this site, in the order of the list
	sisters []*box
	id      string // of this process, for Via
	list    string // identifies the list of boxes, for Via
	http    *http.Client

	addresses atomic.Pointer[map[netip.Addr]bool] // of the other boxes; replaced, never changed
}

// New returns a Site. It connects to no box yet.
func New(o Options) *Site {
	s := &Site{o: o, id: "hubcap-" + rand.Text(), list: listOf(o.Boxes)}
	for i, u := range o.Boxes {
		s.boxes = append(s.boxes, &box{url: u, name: u.String(), self: i == o.Self, place: metrics.PlacePeer})
	}
	for _, u := range o.Sisters {
		s.sisters = append(s.sisters, &box{url: u, name: u.String(), place: metrics.PlaceSister})
	}
	s.http = newClient(o)
	return s
}

// Close closes the connections that are not in use.
func (s *Site) Close() { s.http.CloseIdleConnections() }

// HasBoxes reports whether this box is one of several of its site.
func (s *Site) HasBoxes() bool { return s != nil && len(s.boxes) > 0 }

// Owns reports whether this box owns d while all boxes live.
func (s *Site) Owns(d digest.Digest) bool { return s.ranked(d)[0].self }
