package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// boxes are the rigs of one site.
type boxes []*rig

// newSite returns a site of n boxes in front of one hub.
func newSite(t *testing.T, n int, o rigOptions) boxes {
	t.Helper()
	if o.hub == nil {
		o.hub = fakehub.Start(t, fakehub.Options{})
	}
	listeners := make([]net.Listener, n)
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		listeners[i] = l
		o.site = append(o.site, "http://"+l.Addr().String())
	}
	var all boxes
	for i, l := range listeners {
		one := o
		one.listener, one.self, one.dir = l, o.site[i], t.TempDir()
		all = append(all, newRig(t, one))
	}
	return all
}

// value returns a metric of all boxes together.
func (all boxes) value(name string, labels ...string) (sum float64) {
	for _, r := range all {
		v, _ := r.all.Value(name, labels...)
		sum += v
	}
	return sum
}

// TestSiteFetchesOnce pulls an image at every box of a site at the same time, by many
// clients: each blob and each manifest comes from the registry once, and the tag
// costs one counted pull.
func TestSiteFetchesOnce(t *testing.T) {
	all := newSite(t, 3, rigOptions{})
	hub := all[0].hub
	var layers [][]byte
	for i := range 8 {
		layers = append(layers, fakehub.RandomBlob(uint64(4000+i), 2*mib+i*kib))
	}
	img := hub.Image("library/app", "1", layers...)
	var pulls sync.WaitGroup
	for n := range 12 {
		r := all[n%3]
		pulls.Go(func() {
			got, err := r.try(t.Context(), http.MethodGet, "/v2/library/app/manifests/1")
			if err != nil || !bytes.Equal(got.body, img.Body) {
				t.Errorf("manifest: %v", err)
			}
			for i, l := range img.Layers {
				got, err := r.try(t.Context(), http.MethodGet, blobPath("library/app", l.Digest))
				if err != nil || got.err != nil || !bytes.Equal(got.body, layers[i]) {
					t.Errorf("layer: %v, %v", err, got.err)
				}
			}
		})
	}
	pulls.Wait()
	for _, r := range all {
		r.settle()
	}
	for i, l := range img.Layers {
		if sent := hub.BytesSent(l.Digest); sent != int64(len(layers[i])) {
			t.Errorf("layer %d of %d bytes: %d were sent", i, len(layers[i]), sent)
		}
	}
	if n := all[0].manifestRequests(http.MethodGet); n != 1 {
		t.Errorf("%d counted pulls, want 1", n)
	}
	if n := all[0].manifestRequests(http.MethodHead); n > len(all) {
		t.Errorf("%d HEADs by %d boxes", n, len(all))
	}
	scopes := make(map[string]int)
	for _, q := range hub.Log() {
		if q.Kind == fakehub.KindToken {
			scopes[q.Query]++
		}
	}
	for scope, n := range scopes {
		if n > len(all) {
			t.Errorf("%d tokens for %s by %d boxes", n, scope, len(all))
		}
	}
	if n := all.value("hubcap_place_bytes_total", "place", "peer"); n == 0 {
		t.Error("no byte came from a box")
	}
}

// TestSiteOwnerDies has the box that others read from stop in mid-transfer: a client
// of another one gets the whole blob and does not know.
func TestSiteOwnerDies(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{ConnBandwidth: 4 * mib})
	all := newSite(t, 3, rigOptions{hub: hub})
	body := fakehub.RandomBlob(4100, 12*mib)
	d := hub.AddBlob("library/app", body)
	owner := all.ownerOf(t, d)
	reader := all[(owner+1)%3]
	began := make(chan struct{})
	var got []byte
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err := reader.client.Get(reader.url + blobPath("library/app", d))
		if err != nil {
			failed = err
			close(began)
			return
		}
		defer resp.Body.Close()
		first := make([]byte, 64*kib)
		_, failed = io.ReadFull(resp.Body, first)
		close(began)
		rest, err := io.ReadAll(resp.Body)
		got, failed = slices.Concat(first, rest), err
	}()
	<-began
	go all[owner].stop()
	<-done
	if failed != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(body), failed)
	}
	// The owner goes on until it has stopped, and the runner-up begins anew; what is in
	// buffers when a connection is closed counts as sent.
	if sent := hub.BytesSent(d); sent > 2*int64(len(body))+mib {
		t.Errorf("%d bytes of %d were sent", sent, len(body))
	}
}

// ownerOf returns which box owns d.
func (all boxes) ownerOf(t *testing.T, d digest.Digest) int {
	t.Helper()
	for i, r := range all {
		if r.site.Owns(d) {
			return i
		}
	}
	t.Fatal("no box owns it")
	return 0
}

// blobOwnedBy adds blobs until box i owns one.
func (all boxes) blobOwnedBy(t *testing.T, i int, repo string, size int) ([]byte, digest.Digest) {
	t.Helper()
	for seed := uint64(5000); ; seed++ {
		body := fakehub.RandomBlob(seed+uint64(size), size)
		if d := digest.FromBytes(body); all.ownerOf(t, d) == i {
			all[0].hub.AddBlob(repo, body)
			return body, d
		}
	}
}

// liar is a box that gives wrong answers.
func liar(t *testing.T, answer http.HandlerFunc) (url string) {
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL
}

// TestSiteOfLiars has another box give wrong bytes, a wrong size, an error, a
// redirect, or nothing: no wrong byte reaches a client, and the second request at the
// latest succeeds.
func TestSiteOfLiars(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, body []byte)
		first  bool // the first request succeeds
	}{
		"wrong bytes": {func(w http.ResponseWriter, r *http.Request, body []byte) {
			bad := bytes.Clone(body)
			bad[100] ^= 1
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
		}, false},
		"a wrong size": {func(w http.ResponseWriter, r *http.Request, body []byte) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body[:len(body)/2]))
		}, false},
		"404": {func(w http.ResponseWriter, r *http.Request, _ []byte) { http.NotFound(w, r) }, true},
		"500": {func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(500) }, true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
		}, true},
		"a cut": {func(w http.ResponseWriter, _ *http.Request, body []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body[:len(body)/2])
			panic(http.ErrAbortHandler)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fakehub.Start(t, fakehub.Options{})
			var bodies sync.Map
			bad := liar(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := bodies.Load(r.URL.Path)
				if r.URL.Path == "/livez" || r.URL.Path == "/v2/" {
					return
				}
				tc.answer(w, r, body.([]byte))
			})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			self := "http://" + l.Addr().String()
			r := newRig(t, rigOptions{hub: hub, listener: l, self: self, site: []string{self, bad}})
			var body []byte
			var d digest.Digest
			for seed := uint64(4200); ; seed++ {
				body = fakehub.RandomBlob(seed, mib)
				if d = digest.FromBytes(body); !r.site.Owns(d) {
					break
				}
			}
			hub.AddBlob("library/app", body)
			bodies.Store(blobPath("library/app", d), body)
			got, err := r.try(t.Context(), http.MethodGet, blobPath("library/app", d))
			if err == nil && got.err == nil && got.StatusCode == 200 && !bytes.Equal(got.body, body) {
				t.Fatal("wrong bytes completed")
			}
			if ok := err == nil && got.err == nil && bytes.Equal(got.body, body); ok != tc.first {
				t.Errorf("the first request succeeds: %v, want %v (%v, %v)", ok, tc.first, err, got.err)
			}
			r.settle()
			r.get(blobPath("library/app", d)).want(t, 200, body, "")
		})
	}
}

// TestSiteListsThatDiffer has two boxes each take the other for the owner, for every
// pair of lists of up to three boxes, and asks both at the same time: neither waits for
// the other.
func TestSiteListsThatDiffer(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	const n = 3
	listeners, names := make([]net.Listener, n), make([]string, n)
	for i := range listeners {
		var err error
		listeners[i], err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		names[i] = "http://" + listeners[i].Addr().String()
	}
	// With the other names that the boxes have for each other, each order of the two
	// occurs.
	aliases := []string{strings.Replace(names[0], "127.0.0.1", "localhost", 1), strings.Replace(names[1], "127.0.0.1", "localhost", 1)}
	lists := [][2][]string{
		{{names[0], names[1]}, {names[1], names[0]}},
		{{names[0], aliases[1]}, {names[1], aliases[0]}},
		{{names[0], aliases[1], names[2]}, {names[1], aliases[0]}},
		{{names[0], names[1], names[2]}, {names[1], names[2], aliases[0]}},
		{{names[0]}, {names[1], names[0]}},
	}
	for i, pair := range lists {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var two boxes
			for box, list := range pair {
				l, err := net.Listen("tcp", listeners[box].Addr().String())
				if err != nil {
					l = listeners[box]
				}
				two = append(two, newRig(t, rigOptions{hub: hub, listener: l, self: names[box], site: list, dir: t.TempDir(), boxTime: time.Second})) // the third box says nothing
			}
			var pulls sync.WaitGroup
			ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
			defer cancel()
			for seed := range 20 {
				body := fakehub.RandomBlob(uint64(4300+100*i+seed), mib)
				d := hub.AddBlob("library/app", body)
				for _, r := range two {
					pulls.Go(func() {
						got, err := r.try(ctx, http.MethodGet, blobPath("library/app", d))
						if err != nil || got.err != nil || !bytes.Equal(got.body, body) {
							t.Errorf("blob %d: %v, %v", seed, err, got.err)
						}
					})
				}
			}
			pulls.Wait()
			for _, r := range two {
				r.settle()
				r.stop()
			}
		})
	}
}

// TestSiteBoxUnderTwoNames: a box that is asked by itself says 508, and the pull
// succeeds.
func TestSiteBoxUnderTwoNames(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	self := "http://" + l.Addr().String()
	r := newRig(t, rigOptions{hub: hub, listener: l, self: self, site: []string{self, strings.Replace(self, "127.0.0.1", "localhost", 1)}})
	for seed := range 8 {
		body := fakehub.RandomBlob(uint64(4500+seed), mib)
		d := hub.AddBlob("library/app", body)
		r.get(blobPath("library/app", d)).want(t, 200, body, "")
		r.settle()
		if sent := hub.BytesSent(d); sent > mib {
			t.Errorf("%d bytes were sent", sent)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "under two names") {
		t.Error("the log does not say so")
	}
}

// number is how many of something a test has, fewer with -short.
func number(t *testing.T, few, many int) int {
	t.Helper()
	if testing.Short() {
		return few
	}
	return many
}

// TestSiteKeepsRestrictedContent: what another box says of itself opens nothing, and a
// box refuses restricted content to boxes.
func TestSiteKeepsRestrictedContent(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	all := newSite(t, 2, rigOptions{hub: hub, user: boxUser, password: boxPassword, rules: shared})
	hub.SetPrivate("owner/secret", boxUser)
	for i := range all {
		body, d := all.blobOwnedBy(t, i, "owner/secret", 100*kib+i)
		for _, r := range all {
			r.get(blobPath("owner/secret", d)).want(t, 200, body, "")
			r.settle()
			via := r.get(blobPath("owner/secret", d), "Via", "1.1 hubcap-forged")
			if via.StatusCode != http.StatusServiceUnavailable || via.Header.Get("Retry-After") != "0" {
				t.Errorf("a box is answered %d", via.StatusCode)
			}
			if got := r.get(blobPath("library/other", d), "Via", "1.1 hubcap-forged"); got.StatusCode == 200 {
				t.Error("restricted content through another repository")
			}
		}
	}
	_, d := all.blobOwnedBy(t, 1, "owner/secret", 200*kib)
	all[0].get(blobPath("owner/secret", d)).want(t, 200, nil, "")
	all[0].settle()
	asked := all[0].cdn(d)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, held := range []string{"", "only-if-cached"} {
			for _, span := range []string{"", "bytes=0-99", "bytes=-1"} {
				for range number(t, 10, 840) {
					got, err := all[0].try(t.Context(), method, blobPath("owner/secret", d), "Via", "1.1 hubcap-forged", "Cache-Control", held, "Range", span)
					if err != nil || got.StatusCode < 400 {
						t.Fatalf("%s with %s, %s: %d, %v", method, held, span, got.StatusCode, err)
					}
				}
			}
		}
	}
	if all[0].cdn(d) != asked {
		t.Error("the registry was asked for it")
	}
	if n := all.value("hubcap_place_requests_total", "place", "peer"); n != 0 {
		t.Errorf("%v requests for restricted content between boxes", n)
	}
}
