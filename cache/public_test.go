package cache

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/fill"
)

// shelf is a Nearer with one place.
type shelf struct{ Source }

func (s shelf) Places() []Place {
	return []Place{{Source: s.Source, Name: "store", Kind: "s3", Wrong: func() {}, Store: true}}
}
func (shelf) Boxes() bool { return false }

// refuses is a source that gives nothing.
func refuses() *origin {
	return &origin{script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, fill.ErrSource }}
}

// TestKept is told of public blobs of registries alone: neither of restricted ones,
// nor of what a place has given. Only public files can be opened.
func TestKept(t *testing.T) {
	var mu sync.Mutex
	var kept []digest.Digest
	r := newRig(t, rigOptions{change: func(o *Options) {
		o.Kept = func(d digest.Digest) {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, d)
		}
	}})
	get := func(seed uint64, want func(w *Want, body []byte)) ([]byte, digest.Digest) {
		body, d := randomContent(seed, 100*kib)
		w := Want{Digest: d, Source: &origin{body: body}, Size: int64(len(body)), Host: home}
		want(&w, body)
		b, err := r.Open(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		r.settle()
		return body, d
	}
	body, public := get(901, func(*Want, []byte) {})
	_, secret := get(902, func(w *Want, _ []byte) { w.Restricted = true })
	_, near := get(903, func(w *Want, body []byte) {
		w.Near, w.Source = shelf{&origin{body: body}}, refuses()
	})
	_, absent := get(904, func(w *Want, _ []byte) { w.Near = shelf{refuses()} })
	if want := []digest.Digest{public, absent}; !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	if _, err := r.OpenPublic(t.Context(), secret); err == nil {
		t.Error("a restricted file is open")
	}
	if f, err := r.OpenPublic(t.Context(), near); err != nil {
		t.Error(err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	f, err := r.OpenPublic(t.Context(), public)
	if err != nil {
		t.Fatal(err)
	}
	r.o.Ledger.Evict(public)
	r.Remove(public)
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.OpenPublic(t.Context(), public); err == nil {
		t.Error("an evicted blob is open")
	}
}

// TestOpenPublicVerifies: a file that is not known to be right is not opened before it is.
func TestOpenPublicVerifies(t *testing.T) {
	r, now := atRest(t, t.TempDir())
	for i, rots := range []bool{false, true} {
		body, d := randomContent(uint64(910+i), 100*kib)
		r.mustGet(d, &origin{body: body}, body)
		r.settle()
		now.Add(int64(r.o.VerifyInterval + time.Second))
		if rots {
			r.rot(d, 5)
		}
		f, err := r.OpenPublic(t.Context(), d)
		if opened := err == nil; opened == rots {
			t.Errorf("rotten %v, %v", rots, err)
		}
		if err == nil {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		if r.o.Ledger.Holds(d) == rots || r.files.Count() != 0 {
			t.Errorf("rotten %v, held %v", rots, r.o.Ledger.Holds(d))
		}
	}
	r.wantChecks(1, 1, 0)
}

// TestOwnBlobs: the blobs that belong into a store behind the box are what manifests name,
// public, stored and not another box's; no manifest is among them. A box that has just
// started knows them alike.
func TestOwnBlobs(t *testing.T) {
	var guest digest.Digest
	dir := t.TempDir()
	o := rigOptions{dir: dir, change: func(o *Options) { o.Guest = func(d digest.Digest) bool { return d == guest } }}
	r := newRig(t, o)
	body := func(what string) string { return strings.Repeat(what, 1<<20/len(what)+1) }
	hold := func(what string, restricted bool) digest.Digest {
		content := []byte(body(what))
		d := digest.FromBytes(content)
		b, err := r.Open(t.Context(), Want{Digest: d, Source: &origin{body: content}, Size: int64(len(content)), Host: home, Restricted: restricted})
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		r.settle()
		return d
	}
	config, layer := hold("config", false), hold("layer", false)
	hold("secret", true)
	guest = hold("guest", false)
	hold("named by no manifest", false)
	image := r.putManifest(imageOf(body("config"), body("layer"), body("secret"), body("guest"), body("not held")))
	r.putManifest(indexOf(image))
	want := []digest.Digest{config, layer}
	slices.Sort(want)
	check := func() {
		t.Helper()
		var got []digest.Digest
		for d, used := range r.OwnBlobs(t.Context()) {
			got = append(got, d)
			if age := r.o.Now().Sub(used); age < 0 || age > time.Hour {
				t.Errorf("%s was used %s ago", d, age)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	check()
	r.stop()
	r = newRig(t, o)
	check()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range r.OwnBlobs(gone) {
		t.Error("it goes on")
	}
}
