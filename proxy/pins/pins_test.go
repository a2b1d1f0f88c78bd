package pins

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/index"
	"hubcap/proxy/jobs"
	"hubcap/proxy/warm"
)

const nginx = "docker.io/library/nginx:1.27"

// TestPin pins an image that was never pulled: its manifest is fetched at once, the
// rest in the background, and all of it stays, whatever else is pulled, until it
// is unpinned.
func TestPin(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10, 20)
	r.hub[nginx] = i.digest
	cost := r.mustPin("nginx:1.27")
	if want := (Cost{
		Ref: nginx, Digest: i.digest, Objects: 4, Bytes: 30*mib + 1000, Missing: 3, MissingBytes: 30*mib + 1000,
		Added: 30*mib + 1000, Limit: 80 * mib,
	}); !equalCosts(cost, want) {
		t.Errorf("%+v", cost)
	}
	if s := r.status(nginx); s.State != Missing || s.MissingBytes != 30*mib+1000 || s.By != "test" || !s.At.Equal(start) {
		t.Errorf("%+v", s)
	}
	if got := r.fetchDue(); !slices.Equal(got, []string{"docker.io/library/nginx@" + string(i.digest) + " manifests", "docker.io/library/nginx@" + string(i.digest)}) {
		t.Errorf("asked %v", got)
	}
	if all := r.jobs.All(); len(all) != 1 || all[0].Kind != jobs.Pin || all[0].What != nginx || all[0].State != jobs.Done {
		t.Errorf("jobs: %+v", all)
	}
	r.press()
	r.wantHeld(true, "pinned", i.all()...)
	if s := r.status(nginx); s.State != Held || s.Missing != 0 || !s.Since.IsZero() {
		t.Errorf("%+v", s)
	}
	if o := r.Overview(); o.Pins != 1 || o.Bytes != 30*mib+1000 || o.MissingBytes != 0 || o.Limit != 80*mib {
		t.Errorf("%+v", o)
	}
	if err := r.Unpin("nginx:1.27"); err != nil {
		t.Fatal(err)
	}
	r.press()
	r.wantHeld(false, "unpinned", i.layers...)
	if err := r.Unpin(nginx); !errors.Is(err, ErrNotPinned) {
		t.Errorf("unpinned twice: %v", err)
	}
	if len(r.List()) != 0 || len(r.index.pins) != 0 {
		t.Errorf("%+v", r.List())
	}
}

func equalCosts(a, b Cost) bool {
	same := slices.Equal(a.Platforms, b.Platforms)
	a.Platforms, b.Platforms = nil, nil
	a.Bytes, b.Bytes = a.Bytes/1000, b.Bytes/1000 // the manifest's size is not in it
	return same && a.Ref == b.Ref && a.Digest == b.Digest && a.Objects == b.Objects && a.Bytes == b.Bytes && a.Missing == b.Missing &&
		a.MissingBytes == b.MissingBytes && a.Added == b.Added && a.Pinned == b.Pinned && a.Limit == b.Limit && a.Unknown == b.Unknown
}

// TestDryRun says what a pin takes, and changes nothing.
func TestDryRun(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10)
	r.hub[nginx] = i.digest
	for range 2 {
		cost, err := r.Pin(t.Context(), Request{Ref: nginx}, true)
		if err != nil || cost.Digest != i.digest || !cost.Unknown {
			t.Errorf("%+v, %v", cost, err)
		}
	}
	if err := r.obtain(i.digest); err != nil {
		t.Fatal(err)
	}
	cost, err := r.Pin(t.Context(), Request{Ref: nginx}, true)
	if err != nil || cost.Unknown || cost.MissingBytes != 10*mib+1000 || cost.Added != cost.MissingBytes {
		t.Errorf("%+v, %v", cost, err)
	}
	if len(r.List()) != 0 || len(r.index.pins) != 0 || r.ledger.Pinned(i.digest) {
		t.Errorf("a dry run pinned %+v", r.List())
	}
}

// TestRefused is what cannot be pinned.
func TestRefused(t *testing.T) {
	r := newRig(t)
	r.refused["acme/own"] = errors.New("each client pulls it with an account of its own")
	large := r.pushImage("large", 31)
	r.hub["docker.io/library/large:latest"] = large.digest
	for name, tc := range map[string]struct {
		r    Request
		text string
	}{
		"no reference":      {Request{Ref: "Not A Name"}, "is no image reference"},
		"passthrough":       {Request{Ref: "acme/own:1"}, "with an account of its own"},
		"platform":          {Request{Ref: "nginx", Platforms: []string{"linux//"}}, "is no platform"},
		"note":              {Request{Ref: "nginx", Note: strings.Repeat("x", maxNote+1)}, "1001 bytes"},
		"until":             {Request{Ref: "nginx", Until: start}, "would have ended"},
		"name":              {Request{Ref: "nginx", By: "file"}, "sets pins of its own"},
		"unknown":           {Request{Ref: "nginx"}, errDown.Error()},
		"a layer above max": {Request{Ref: "large"}, "a layer has 31 MiB, and HUBCAP_MAX_BLOB is 30 MiB"},
	} {
		if _, err := r.Pin(t.Context(), tc.r, false); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.List()) != 0 {
		t.Errorf("%+v", r.List())
	}
}

// TestFull: at most 80 % of the cache can be pinned, what images share counted
// once.
func TestFull(t *testing.T) {
	r := newRig(t)
	for name, layers := range map[string][]int64{"a": {25, 25}, "b": {20}, "c": {15}} {
		r.hub["docker.io/library/"+name+":latest"] = r.pushImage(name, layers...).digest
	}
	r.mustPin("a")
	r.mustPin("b")
	cost, err := r.Pin(t.Context(), Request{Ref: "c"}, false)
	var full *FullError
	if !errors.As(err, &full) || full.Cache != budget || full.Limit != 80*mib || full.Needs != cost.Added || full.Pinned != cost.Pinned {
		t.Fatalf("%+v, %v", cost, err)
	}
	if want := "70 MiB are pinned, this image needs 15 MiB; 80 MiB, 80% of the 100 MiB of the cache, can be pinned"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	r.mustPin("a") // again: it needs nothing more
	if err := r.Unpin("b"); err != nil {
		t.Fatal(err)
	}
	r.mustPin("c")
	if names := refs(r.List()); !slices.Equal(names, []string{"docker.io/library/a:latest", "docker.io/library/c:latest"}) {
		t.Error(names)
	}
}

func refs(all []Status) (names []string) {
	for _, s := range all {
		names = append(names, s.Ref)
	}
	return names
}

// TestTagMoves: the image before is kept until the new one is here in full, across
// a restart too. A tag that grows past the limit keeps its pin.
func TestTagMoves(t *testing.T) {
	r := newRig(t)
	before, after := r.pushImage("before", 5), r.pushImage("after", 30, 29, 25)
	r.hub[nginx] = before.digest
	r.mustPin(nginx)
	r.fetchDue()
	r.index.tags[tagName(r.pins[nginx].ref)] = index.Tag{Digest: after.digest} // a client had it revalidated
	if err := r.obtain(after.digest); err != nil {
		t.Fatal(err)
	}
	r.down = true
	r.look()
	for range 2 {
		r.press()
		r.wantHeld(true, "the image before", before.all()...)
		if s := r.status(nginx); s.State != Missing || s.Digest != after.digest {
			t.Errorf("%+v", s)
		}
		r.fetchDue()
		r.restart()
	}
	r.down = false
	r.fetchDue()
	r.wantHeld(true, "the new image", after.all()...)
	r.press()
	r.wantHeld(false, "the image before", before.layers...)
	if o := r.Overview(); o.Bytes <= o.Limit || r.status(nginx).State != Held {
		t.Errorf("%+v", o)
	}
}

// TestDigestDoesNotMove keeps what a digest names, whatever the tag beside it does.
func TestDigestDoesNotMove(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("one", 20)
	r.mustPin(nginx + "@" + string(i.digest))
	r.fetchDue()
	r.press()
	r.wantHeld(true, "the digest", i.all()...)
	if s := r.List()[0]; s.Ref != "docker.io/library/nginx@"+string(i.digest) || s.State != Held {
		t.Errorf("%+v", s)
	}
}

// TestPlatforms keeps the platforms that were named, or else those of which layers
// were pulled, or else the box's own; of the others what containerd fetches too.
func TestPlatforms(t *testing.T) {
	own := warm.DefaultPlatform()
	for name, tc := range map[string]struct {
		named, pulled, want []string
	}{
		"none":            {nil, nil, []string{own}},
		"named":           {[]string{"linux/s390x"}, []string{"linux/riscv64"}, []string{"linux/s390x"}},
		"pulled":          {nil, []string{"linux/riscv64"}, []string{"linux/riscv64"}},
		"all":             {[]string{"all"}, nil, []string{own, "linux/riscv64", "linux/s390x"}},
		"another wording": {[]string{"s390x/"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			images := make(map[string]image)
			for n, p := range []string{own, "linux/riscv64", "linux/s390x"} {
				images[p] = r.pushImage(p, int64(n+5))
			}
			d := r.pushIndex(images)
			r.hub[nginx] = d
			for _, p := range tc.pulled {
				for _, part := range append(images[p].layers, images[p].digest, d) {
					if err := r.obtain(part); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, i := range images { // as containerd does
				if err := errors.Join(r.obtain(i.digest), r.obtain(i.config)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.Pin(t.Context(), Request{Ref: nginx, Platforms: tc.named}, false); (err == nil) != (tc.want != nil) {
				t.Fatal(err)
			} else if err != nil {
				return
			}
			r.fetchDue()
			r.press()
			for p, i := range images {
				r.wantHeld(slices.Contains(tc.want, p), p, i.layers...)
				if !r.ledger.Pinned(i.digest) || !r.ledger.Pinned(i.config) {
					t.Errorf("the manifest and the config of %s are not kept", p)
				}
			}
		})
	}
}

// TestFurtherPlatform: a pin that names no platform takes in one that is pulled
// later.
func TestFurtherPlatform(t *testing.T) {
	r := newRig(t)
	images := map[string]image{"linux/riscv64": r.pushImage("riscv", 5), "linux/s390x": r.pushImage("s390x", 6, 7)}
	d := r.pushIndex(images)
	r.hub[nginx] = d
	for _, part := range append(images["linux/riscv64"].all(), d) {
		if err := r.obtain(part); err != nil {
			t.Fatal(err)
		}
	}
	r.mustPin(nginx)
	if s := r.status(nginx); s.State != Held {
		t.Fatalf("%+v", s)
	}
	if err := errors.Join(r.obtain(images["linux/s390x"].digest), r.obtain(images["linux/s390x"].layers[0])); err != nil {
		t.Fatal(err)
	}
	r.look()
	r.fetchDue()
	r.press()
	r.wantHeld(true, "riscv64", images["linux/riscv64"].all()...)
	r.wantHeld(true, "s390x", images["linux/s390x"].all()...)
	if got := r.index.pins[nameOf(r.pins[nginx].ref)].Pulled; !slices.Equal(got, []string{"linux/riscv64", "linux/s390x"}) {
		t.Errorf("remembered %v", got)
	}
}

// TestReferrers keeps signatures and the like that are here, and asks for none.
func TestReferrers(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("app", 5)
	tag := strings.Replace(i.digest.String(), ":", "-", 1)
	var kept []digest.Digest
	for name, known := range map[string]bool{tag + ".sig": true, tag + ".att": true, tag + ".other": false} {
		signature := r.pushImage(name, 1)
		r.index.tags[index.Name{Registry: "ghcr.io", Repository: "shared/app", Kind: index.KindTag, Name: name, Restricted: true}] = index.Tag{Digest: signature.digest}
		for _, d := range signature.all() {
			if err := r.obtain(d); err != nil {
				t.Fatal(err)
			}
		}
		if known {
			kept = append(kept, signature.all()...)
		}
	}
	sbom, absent := r.pushImage("sbom", 1), r.pushImage("absent", 1)
	list := r.push(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageManifest, Digest: sbom.digest, Size: 100},
		{MediaType: ocispec.MediaTypeImageManifest, Digest: absent.digest, Size: 100},
	}})
	r.index.tags[index.Name{Registry: "ghcr.io", Repository: "shared/app", Kind: index.KindReferrers, Name: i.digest.String(), Restricted: true}] = index.Tag{Digest: list}
	for _, d := range append(sbom.all(), list) {
		if err := r.obtain(d); err != nil {
			t.Fatal(err)
		}
	}
	r.hub["ghcr.io/shared/app:1"] = i.digest
	r.mustPin("ghcr.io/shared/app:1")
	r.fetchDue()
	r.press()
	r.wantHeld(true, "app", i.all()...)
	r.wantHeld(true, "signatures", kept...)
	r.wantHeld(true, "sbom", append(sbom.all(), list)...)
	r.wantHeld(false, "absent", absent.all()...)
	if s := r.status("ghcr.io/shared/app:1"); s.State != Held {
		t.Errorf("%+v", s)
	}
}

// TestRestart: pins outlive a restart, and nothing is evicted before they are
// known again.
func TestRestart(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10, 20)
	r.hub[nginx] = i.digest
	if _, err := r.Pin(t.Context(), Request{Ref: nginx, Until: start.Add(time.Hour), Note: "for the fair", By: "alice"}, false); err != nil {
		t.Fatal(err)
	}
	r.fetchDue()
	before := r.status(nginx)
	r.restart()
	r.press()
	r.wantHeld(true, "after a restart", i.all()...)
	if s := r.status(nginx); s.State != Held || s.Note != "for the fair" || s.By != "alice" || !s.Until.Equal(before.Until) || s.Bytes != before.Bytes {
		t.Errorf("%+v, want %+v", s, before)
	}
	r.clock.Advance(time.Hour)
	r.look()
	r.press()
	r.wantHeld(false, "after its end", i.layers...)
	if len(r.List()) != 0 || len(r.index.pins) != 0 {
		t.Errorf("%+v", r.List())
	}
}

// TestIndexFails: what cannot be written is neither pinned nor unpinned.
func TestIndexFails(t *testing.T) {
	r := newRig(t)
	r.hub[nginx] = r.pushImage("nginx", 1).digest
	r.index.err = errors.New("the disk is full")
	if _, err := r.Pin(t.Context(), Request{Ref: nginx}, false); !errors.Is(err, r.index.err) || len(r.List()) != 0 {
		t.Errorf("%v, %+v", err, r.List())
	}
	r.index.err = nil
	r.mustPin(nginx)
	r.index.err = errors.New("the disk is full")
	if err := r.Unpin(nginx); !errors.Is(err, r.index.err) || len(r.List()) != 1 {
		t.Errorf("%v, %+v", err, r.List())
	}
}

// TestFrozen keeps what tags are frozen to.
func TestFrozen(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("frozen", 10)
	for _, d := range i.all() {
		if err := r.obtain(d); err != nil {
			t.Fatal(err)
		}
	}
	r.frozen = map[index.Name]digest.Digest{{Registry: "docker.io", Repository: "library/nginx", Kind: index.KindTag, Name: "1.27"}: i.digest}
	r.look()
	r.press()
	r.wantHeld(true, "frozen", i.all()...)
	if s := r.status(nginx); s.By != byFreeze || s.State != Held || s.Digest != i.digest {
		t.Errorf("%+v", s)
	}
	if err := r.Unpin(nginx); !errors.Is(err, ErrFrozen) {
		t.Error(err)
	}
	r.lose(i.layers[0])
	r.look()
	r.fetchDue()
	r.wantHeld(true, "fetched again", i.all()...)
	r.frozen = nil
	r.look()
	r.press()
	r.wantHeld(false, "thawed", i.layers...)
}
