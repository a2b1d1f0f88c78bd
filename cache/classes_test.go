package cache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The registries of these tests.
const (
	home    = "registry.example.com" // the blob came from it
	abroad  = "evil.example.com"     // another one, which may claim anything
	nowhere = ""
)

// asker is a client that requests a restricted blob, and whether it may see it.
type asker struct {
	name  string
	want  Want
	shown bool
}

// askers are all kinds; src is a source that refuses.
func askers(d digest.Digest, src Source) []asker {
	one := func(host string, restricted, granted bool) Want {
		return Want{Digest: d, Source: src, Size: -1, Host: host, Restricted: restricted, Granted: granted}
	}
	return []asker{
		{"a client without credentials", one(home, false, false), false},
		{"a client of another registry without credentials", one(abroad, false, false), false},
		{"restricted, without a grant", one(home, true, false), false},
		{"restricted, granted by another registry", one(abroad, true, true), false},
		{"restricted, granted by no registry", one(nowhere, true, true), false},
		{"restricted, granted by its registry", one(home, true, true), true},
	}
}

// checkShown requests a restricted blob in every way.
func (r *rig) checkShown(d digest.Digest, size int) {
	r.t.Helper()
	refuses := &origin{}
	refuses.script = func(int64, int64, io.Reader) (io.Reader, error) { return nil, permanent{ErrSource} }
	for _, a := range askers(d, refuses) {
		if b, ok, err := r.Held(a.want); ok != a.shown || !a.shown && !errors.Is(err, ErrRestricted) {
			r.t.Errorf("%s: HEAD: %v, %v", a.name, ok, err)
		} else if ok {
			b.Close()
		}
		b, err := r.Open(r.t.Context(), a.want)
		if a.shown != (err == nil) || !a.shown && !errors.Is(err, ErrRestricted) {
			r.t.Errorf("%s: GET: %v", a.name, err)
		}
		if err == nil {
			var c client
			if err := b.Send(r.t.Context(), &c, 0, -1); err != nil || c.Len() != size {
				r.t.Errorf("%s: %d bytes, %v", a.name, c.Len(), err)
			}
			b.Close()
		}
		if brought, err := r.Fetch(r.t.Context(), a.want); brought >= 0 || err != nil {
			r.t.Errorf("%s: prefetch: %v, %v", a.name, brought, err)
		}
	}
	if n := refuses.opens.Load(); n != 0 {
		r.t.Errorf("the source was asked %d times for what is held", n)
	}
}

// bring has a restricted blob stored by a client that may see it.
func (r *rig) bring(d digest.Digest, body []byte) {
	r.t.Helper()
	b, err := r.Open(r.t.Context(), Want{Digest: d, Source: &origin{body: body}, Size: -1, Host: home, Restricted: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer b.Close()
	var c client
	if err := b.Send(r.t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		r.t.Fatalf("%d bytes, %v", c.Len(), err)
	}
	r.settle()
}

// TestRestrictedBlob shows that only clients to which its registry would give it can
// see a restricted blob, also after a restart. After the loss of the index, which
// knew where the blob came from, no client can.
func TestRestrictedBlob(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(900, 3*mib)
	r.bring(d, body)
	r.checkShown(d, len(body))
	r.checkLedger()
	r.stop()

	r = newRig(t, rigOptions{dir: dir})
	r.checkShown(d, len(body))
	r.stop()

	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "index")), os.Remove(filepath.Join(dir, "snapshot"))); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{dir: dir})
	for _, a := range askers(d, &origin{body: body}) {
		if _, ok, err := r.Held(a.want); ok || !errors.Is(err, ErrRestricted) {
			t.Errorf("%s: %v, %v", a.name, ok, err)
		}
		if r.Confirm(a.want) {
			t.Errorf("%s: the registry is believed", a.name)
		}
	}
	// The bytes themselves prove it.
	want := Want{Digest: d, Source: &origin{body: body}, Size: int64(len(body)), Host: home, Restricted: true, Granted: true}
	b := r.Uncached(want)
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Fatalf("%d bytes, %v", c.Len(), err)
	}
	b.Close()
	r.Proved(want)
	r.checkShown(d, len(body))
}

// TestRestrictedFill is TestRestrictedBlob while the fill runs.
func TestRestrictedFill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(901, mib)
	on := make(chan struct{})
	src := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) { return gate{in, on}, nil }}
	first, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1, Host: home, Restricted: true})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for _, a := range askers(d, src) {
		b, err := r.Open(t.Context(), a.want)
		if a.shown != (err == nil) || !a.shown && !errors.Is(err, ErrRestricted) {
			t.Errorf("%s: %v", a.name, err)
		}
		if err == nil {
			b.Close()
		}
	}
	public := Want{Digest: d, Source: src, Size: -1, Host: abroad}
	if r.Confirm(public) {
		t.Error("a registry is believed about what comes from another one")
	}
	public.Host = home
	if !r.Confirm(public) {
		t.Error("the registry that it comes from is not believed")
	}
	close(on)
	r.settle()
	if got, from, err := r.get(d, src, 0, -1); err != nil || from != Held || !bytes.Equal(got, body) {
		t.Errorf("revealed while it came in: %d bytes from %d, %v", len(got), from, err)
	}
	r.checkLedger()
}

// TestReveal makes a restricted blob public: it is not hashed again, and stays public.
func TestReveal(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(902, mib)
	r.bring(d, body)
	public := Want{Digest: d, Source: &origin{body: body}, Size: -1, Host: home}
	if !r.Confirm(public) {
		t.Fatal("not confirmed")
	}
	b, ok, err := r.Held(public)
	if !ok {
		t.Fatal(err)
	}
	if !b.body.(*held).trusted {
		t.Error("it has to be verified again")
	}
	b.Close()
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	if from := r.mustGet(d, &origin{}, body); from != Held {
		t.Errorf("origin %d", from)
	}
	r.checkLedger()
}

// TestRestrictedManifest shows the same rules for a manifest, in memory and on disk.
func TestRestrictedManifest(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body := []byte(`{"schemaVersion":2,"mediaType":"application/x"}`)
	one := Manifest{Digest: digest.FromBytes(body), MediaType: "application/x", Body: body, Restricted: true, Host: home}
	stored := make(chan struct{})
	r.PutManifest(one, func() { close(stored) })
	check := func(when string) {
		t.Helper()
		m, ok := r.Manifest(one.Digest)
		if !ok || !m.Restricted || !r.CameFrom(one.Digest, home) || r.CameFrom(one.Digest, abroad) {
			t.Errorf("%s: %v, %+v", when, ok, m)
		}
	}
	check("in memory")
	<-stored
	check("on disk too")
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	check("after a restart")

	stored = make(chan struct{})
	public := one
	public.Restricted = false
	r.PutManifest(public, func() { close(stored) })
	<-stored
	r.PutManifest(one, func() {})
	if m, ok := r.Manifest(one.Digest); !ok || m.Restricted {
		t.Errorf("after an anonymous fetch: %v, %+v", ok, m)
	}
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	if m, ok := r.Manifest(one.Digest); !ok || m.Restricted {
		t.Errorf("after that and a restart: %v, %+v", ok, m)
	}
}

// TestRestrictedPartial shows that a partial fill of restricted content is continued
// only for a client that may see it.
func TestRestrictedPartial(t *testing.T) {
	t.Parallel()
	for _, a := range askers("", nil) {
		t.Run(a.name, func(t *testing.T) {
			dir := t.TempDir()
			r := newRig(t, rigOptions{dir: dir})
			body, d := randomContent(903, partialSize)
			r.leave(d, body)
			r.stop()
			file := filepath.Join(dir, "partial", "sha256-"+d.Encoded())
			if err := errors.Join(
				os.WriteFile(file, body, 0o600),
				os.WriteFile(file+".note", encodeNote(partialSize, spans{{0, partialSize}}, home), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			r = newRig(t, rigOptions{dir: dir})
			src := newMeter(body, 0, nil)
			want := a.want
			want.Digest, want.Source = d, src
			b, err := r.Open(t.Context(), want)
			if err != nil {
				t.Fatal(err)
			}
			b.Close()
			r.settle()
			if asked := src.opens.Load() > 0; asked == a.shown {
				t.Errorf("the source was asked: %v", asked)
			}
			r.checkLedger()
		})
	}
}
