package proxy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/pins"
	"hubcap/proxy/upstream"
)

// pullAll pulls an index, one image of it and all of that, and reports whether it
// could.
func (r *rig) pullAll(repository, tag string, img fakehub.Image) bool {
	r.t.Helper()
	ok := r.get("/v2/"+repository+"/manifests/"+tag).StatusCode == 200 && r.get("/v2/"+repository+"/manifests/"+img.Manifest.Digest.String()).StatusCode == 200
	for _, one := range append(img.Layers, img.Config) {
		got := r.get(blobPath(repository, one.Digest))
		ok = ok && got.err == nil && got.StatusCode == 200 && digest.FromBytes(got.body) == one.Digest
	}
	return ok
}

// pressure pulls ten times what the cache of 16 MiB holds.
func (r *rig) pressure(seed uint64) {
	r.t.Helper()
	blobs := uint64(160)
	if testing.Short() {
		blobs = 40
	}
	for n := range blobs {
		d := r.hub.AddBlob("library/other", fakehub.RandomBlob(seed+n, mib))
		r.get(blobPath("library/other", d)).want(r.t, 200, nil, "")
		r.hub.DeleteBlob("library/other", d)
	}
	r.settle()
}

func (r *rig) pinState(t *testing.T, ref string) pins.Status {
	t.Helper()
	all := r.pins.List()
	i := slices.IndexFunc(all, func(s pins.Status) bool { return s.Ref == ref })
	if i < 0 {
		t.Fatalf("%s is not in %+v", ref, all)
	}
	return all[i]
}

// TestPinnedImageStaysWhole under ten times the size of the cache (with -short,
// more than twice), across a
// restart, and can be pulled with the registry down; an image that is not pinned
// cannot.
func TestPinnedImageStaysWhole(t *testing.T) {
	o := rigOptions{cache: 16 * mib, maxBlob: 4 * mib}
	r := newRig(t, o)
	pinned := r.hub.Image("library/demo", "", fakehub.RandomBlob(1, 3*mib), fakehub.RandomBlob(2, mib), fakehub.RandomBlob(3, 100))
	r.hub.Index("library/demo", "1", pinned.Manifest)
	other := r.hub.Image("library/demo", "2", fakehub.RandomBlob(4, 3*mib))
	cost, err := r.pins.Pin(t.Context(), pins.Request{Ref: "demo:1", Platforms: []string{"linux/amd64"}, By: "test"}, false)
	if err != nil || cost.Objects != 6 || cost.Missing != 4 {
		t.Fatalf("%+v, %v", cost, err)
	}
	eventually(t, "it is fetched", func() bool { return r.pinState(t, "docker.io/library/demo:1").State == pins.Held })
	r.pullWhole(t, "2", other)
	r.pressure(100)
	o.hub, o.dir, o.cache = r.hub, r.dir, 8*mib // at the start, half of what is there has to go
	r.stop()
	r = newRig(t, o)
	r.pressure(1000)
	if s := r.ledger.Status(); s.Used() > s.Budget || s.Pinned.Bytes < 4*mib {
		t.Errorf("%+v", s)
	}
	if r.metric("hubcap_pinned_missing_bytes") != "0" || r.metric("hubcap_pinned_bytes") == "0" {
		t.Errorf("%s of %s bytes are missing", r.metric("hubcap_pinned_missing_bytes"), r.metric("hubcap_pinned_bytes"))
	}
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
	r.clock.Advance(time.Hour)
	if !r.pullAll("library/demo", "1", pinned) {
		t.Error("the pinned image cannot be pulled")
	}
	if r.pullAll("library/demo", "2", other) {
		t.Error("the other image can be pulled: there was no pressure")
	}
}

// TestPinnedLayerComesBack: a pinned layer whose file is lost is fetched again,
// although no client asks for it.
func TestPinnedLayerComesBack(t *testing.T) {
	pinsFile := filepath.Join(t.TempDir(), "pins")
	r := newRig(t, rigOptions{pinsFile: pinsFile})
	img := r.hub.Image("library/demo", "1", fakehub.RandomBlob(1, mib))
	must(t, os.WriteFile(pinsFile, []byte("demo:1\n"), 0o600))
	held := func() bool {
		all := r.pins.List()
		return len(all) == 1 && all[0].State == pins.Held
	}
	eventually(t, "it is fetched", held)
	r.clock.Advance(2 * time.Hour)
	r.ledger.Evict(img.Layers[0].Digest)
	r.cache.Remove(img.Layers[0].Digest)
	eventually(t, "it is here again", func() bool { return r.ledger.Holds(img.Layers[0].Digest) && held() })
	if n := r.cdn(img.Layers[0].Digest); n != 2 {
		t.Errorf("fetched %d times", n)
	}
	if n := r.manifestRequests("GET"); n != 1 {
		t.Errorf("%d pulls", n)
	}
}

// TestPinsOfRestrictedContent: shared repositories can be pinned, those that each
// client pulls for itself cannot.
func TestPinsOfRestrictedContent(t *testing.T) {
	for name, tc := range map[string]struct {
		rules upstream.Rules
		ok    bool
	}{
		"shared":      {upstream.Rules{Visibility: upstream.Shared, SharedRepositories: []string{"library/*"}}, true},
		"passthrough": {upstream.Rules{Visibility: upstream.Passthrough}, false},
		"denied":      {upstream.Rules{Deny: []string{"library/*"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{"box": "secret"}})
			r := newRig(t, rigOptions{hub: hub, rules: tc.rules, user: "box", password: "secret"})
			img := hub.Image("library/demo", "1", fakehub.RandomBlob(1, mib))
			hub.SetPrivate("library/demo", "box")
			_, err := r.pins.Pin(t.Context(), pins.Request{Ref: "demo:1"}, false)
			if (err == nil) != tc.ok {
				t.Fatal(err)
			}
			if !tc.ok {
				return
			}
			eventually(t, "it is fetched", func() bool { return r.pinState(t, "docker.io/library/demo:1").State == pins.Held })
			hub.Script(fakehub.Always(&fakehub.Fault{Status: 500}))
			for _, d := range []v1.Descriptor{img.Layers[0], img.Config} {
				r.get(blobPath("library/demo", d.Digest)).want(t, 200, nil, "hubcap; hit")
			}
		})
	}
}

// TestPinsFullError is what an operator is told of an image that does not fit.
func TestPinsFullError(t *testing.T) {
	r := newRig(t, rigOptions{cache: 10 * mib})
	r.hub.Image("library/demo", "1", fakehub.RandomBlob(1, 9*mib))
	_, err := r.pins.Pin(t.Context(), pins.Request{Ref: "demo:1"}, false)
	var full *pins.FullError
	if !errors.As(err, &full) || full.Limit != 8*mib || len(r.pins.List()) != 0 {
		t.Errorf("%v, %+v", err, r.pins.List())
	}
}
