package warm_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/e2e/fakehub"
	"hubcap/proxy/pull"
	"hubcap/proxy/warm"
)

// TestImage fetches a platform of an index once, each part once, and then nothing;
// clients are served from it while the registry is down.
func TestImage(t *testing.T) {
	r := newRig(t, rigOptions{})
	m := r.multi("1.0", 1)
	got := r.image("demo:1.0", warm.Request{Platforms: []string{"linux/amd64"}})
	if got.Digest != m.top.Digest || got.Pulls != 2 || got.Objects != 5 || got.Missing != 5 || got.Held != 0 ||
		!slices.Equal(got.Platforms, []string{"linux/amd64"}) {
		t.Errorf("%+v", got)
	}
	for _, d := range append(parts(m.amd64), m.top.Digest) {
		if n := r.hub.Count(fakehub.OfReference(d), fakehub.OfRole(fakehub.RoleRegistry), fakehub.OfMethod(http.MethodGet), fakehub.Not(fakehub.OfStatus(http.StatusUnauthorized))); n > 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
	if n := r.hub.BytesSent(m.arm64.Manifest.Digest) + r.hub.BytesSent(m.attest.Manifest.Digest); n != 0 {
		t.Errorf("%d bytes of other platforms", n)
	}
	r.hub.Reset()
	if got := r.image("demo:1.0", warm.Request{Platforms: []string{"linux/amd64"}}); got.Missing != 0 || got.Pulls != 0 || got.Held == 0 {
		t.Errorf("again: %+v", got)
	}
	if asked := r.asked(); asked != nil {
		t.Errorf("again: %v", asked)
	}
	r.hub.Down(fakehub.RoleRegistry, fakehub.RoleToken, fakehub.RoleCDN)
	r.get(repo + "/manifests/1.0")
	r.get(repo + "/manifests/" + m.amd64.Manifest.Digest.String())
	for _, l := range append(m.amd64.Layers, m.amd64.Config) {
		r.get(repo + "/blobs/" + l.Digest.String())
	}
}

// TestPlatforms: those that are named, in any spelling; else those of which a layer
// is held, of this digest or an earlier one; else the box's own.
func TestPlatforms(t *testing.T) {
	r := newRig(t, rigOptions{})
	m := r.multi("1.0", 1)
	for _, one := range []struct {
		names []string
		want  []string
	}{
		{[]string{"aarch64"}, []string{"linux/arm64"}},
		{[]string{"linux/arm64/v8"}, []string{"linux/arm64"}},
		{[]string{"Linux/ARM/v7", "amd64"}, []string{"linux/amd64", "linux/arm"}},
		{[]string{"all"}, []string{"linux/amd64", "linux/arm64", "linux/arm"}},
	} {
		if got := r.image("demo:1.0", warm.Request{Platforms: one.names, DryRun: true}); !got.Unknown && !slices.Equal(got.Platforms, one.want) {
			t.Errorf("%v: %+v", one.names, got)
		}
	}
	_, err := r.Warm.Image(t.Context(), ref(t, "demo:1.0"), warm.Request{Platforms: []string{"linux/s390x"}}, nil)
	if !errors.Is(err, warm.ErrNoPlatform) || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("%v", err)
	}
	if _, err := r.Warm.Image(t.Context(), ref(t, "demo:1.0"), warm.Request{Platforms: []string{"a/b/c/d"}}, nil); err == nil {
		t.Error("a/b/c/d is a platform")
	}
	if got := r.image("demo:1.0", warm.Request{}); runtime.GOARCH == "amd64" && !slices.Equal(got.Platforms, []string{"linux/amd64"}) {
		t.Errorf("by default: %+v", got)
	}
	if got := r.image("demo:1.0", warm.Request{Platforms: []string{"arm64", "s390x"}}); !slices.Equal(got.Absent, []string{"linux/s390x"}) || len(got.Platforms) != 1 {
		t.Errorf("one absent: %+v", got)
	}
	if got := r.image("demo:1.0", warm.Request{}); !slices.Equal(got.Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("those that are held: %+v", got)
	}
	if got := r.image("demo:1.0", warm.Request{Platforms: []string{"all"}}); len(got.Platforms) != 3 || r.hub.BytesSent(m.attest.Layers[0].Digest) != 0 {
		t.Errorf("all: %+v", got)
	}

	old := r.multi("moving", 100)
	r.image("demo:moving", warm.Request{Platforms: []string{"arm64"}})
	next := r.multi("moving", 200)
	r.clock.Advance(1e12)
	got := r.image("demo:moving", warm.Request{})
	if got.Digest != next.top.Digest || got.Digest == old.top.Digest || !slices.Equal(got.Platforms, []string{"linux/arm64"}) {
		t.Errorf("after a move: %+v", got)
	}
}

// TestDryRun says what would be fetched, fetches nothing and takes no pull.
func TestDryRun(t *testing.T) {
	r := newRig(t, rigOptions{})
	m := r.multi("1.0", 1)
	dry := warm.Request{Platforms: []string{"all"}, DryRun: true}
	if got := r.image("demo:1.0", dry); got.Pulls != 1 || !got.Unknown || got.Missing != 1 || got.Digest != m.top.Digest {
		t.Errorf("nothing held: %+v", got)
	}
	r.image("demo:1.0", warm.Request{Platforms: []string{"linux/amd64"}})
	r.hub.Reset()
	got := r.image("demo:1.0", dry)
	if got.Pulls != 2 || !got.Unknown || got.Missing != 2 || got.Fetched != m.arm64.Manifest.Size+m.arm.Manifest.Size {
		t.Errorf("a platform held: %+v", got)
	}
	r.get(repo + "/manifests/" + m.arm64.Manifest.Digest.String())
	r.hub.Reset()
	dry.Platforms = []string{"arm64"}
	got = r.image("demo:1.0", dry)
	if got.Pulls != 0 || got.Unknown || got.Missing != 2 || got.Fetched != m.arm64.Config.Size+20*kib {
		t.Errorf("its manifest held: %+v", got)
	}
	if asked := r.asked(); asked != nil {
		t.Errorf("asked: %v", asked)
	}
	dry.DryRun = false
	if run := r.image("demo:1.0", dry); run.Missing != got.Missing || run.Fetched != got.Fetched || run.Pulls != got.Pulls {
		t.Errorf("dry %+v, run %+v", got, run)
	}
}

// TestErrors name the image and the part.
func TestErrors(t *testing.T) {
	r := newRig(t, rigOptions{environ: []string{"HUBCAP_UPSTREAM_0_DENY=library/denied"}})
	img := r.hub.Image(repo, "torn", fakehub.RandomBlob(1, kib))
	r.hub.DeleteBlob(repo, img.Layers[0].Digest)
	r.hub.AddManifest(repo, "other", "application/vnd.example+json", []byte(`{"schemaVersion":2}`))
	for name, want := range map[string]string{
		"demo:gone":              "docker.io/library/demo:gone: manifest unknown at docker.io",
		"demo:torn":              "docker.io/library/demo:torn: layer " + img.Layers[0].Digest.String() + " unknown at docker.io",
		"demo:other":             warm.ErrNoImage.Error(),
		"registry.corp/x/y:1":    warm.ErrUnknownRegistry.Error(),
		"denied":                 pull.ErrDenied.Error(),
		"demo@" + digestOfNone(): "docker.io/library/demo@" + digestOfNone() + ": manifest " + digestOfNone() + " unknown at docker.io",
	} {
		_, err := r.Warm.Image(t.Context(), ref(t, name), warm.Request{}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func digestOfNone() string { return digest.FromString("none").String() }

// TestForeign: a layer that its registry need not have is skipped, and so is the
// config of an artifact that the registry has lost.
func TestForeign(t *testing.T) {
	r := newRig(t, rigOptions{})
	layer := r.hub.AddBlob(repo, fakehub.RandomBlob(1, kib))
	foreign, lost := digest.FromString("foreign"), digest.FromString("lost")
	body, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: "application/vnd.example.config", Digest: lost, Size: 4},
		Layers: []v1.Descriptor{
			{MediaType: v1.MediaTypeImageLayer, Digest: layer, Size: kib},
			{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: foreign, Size: 7, URLs: []string{"https://example.com/x"}},
		},
	})
	must(t, err)
	r.hub.AddManifest(repo, "windows", v1.MediaTypeImageManifest, body)
	got := r.image("demo:windows", warm.Request{})
	if len(got.Skipped) != 2 || got.Skipped[0].Digest != foreign || got.Skipped[1].Digest != lost || got.Fetched != int64(len(body))+kib {
		t.Errorf("%+v", got)
	}
}

// TestKeepPulls: the rest of the pull limit is left to clients, and what is held is
// no pull.
func TestKeepPulls(t *testing.T) {
	r := newRig(t, rigOptions{hub: fakehub.Options{RateLimit: 10}})
	m := r.multi("1.0", 1)
	for i := range 7 {
		r.hub.Image(repo, "x"+string(rune('a'+i)), fakehub.RandomBlob(uint64(i)+50, kib))
		r.get(repo + "/manifests/x" + string(rune('a'+i)))
	}
	keep := warm.Request{KeepPulls: 0.2, Platforms: []string{"amd64"}} // 3 left: one may be used
	name := "demo@" + m.top.Digest.String()
	got, err := r.Warm.Image(t.Context(), ref(t, name), keep, nil)
	if !errors.Is(err, pull.ErrPullsKept) || got.Pulls != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	keep.KeepPulls = 0
	r.image(name, keep)
	keep.KeepPulls = 0.2
	r.image(name, keep) // all of it is held
	if _, err := r.Warm.Image(t.Context(), ref(t, "demo:1.0"), keep, nil); !errors.Is(err, pull.ErrPullsKept) {
		t.Errorf("a tag: %v", err)
	}
}

// TestMerges: while clients and several callers fetch one image, each part crosses
// the line once, and all get it whole.
func TestMerges(t *testing.T) {
	r := newRig(t, rigOptions{hub: fakehub.Options{ConnBandwidth: 8 * mib}})
	img := r.hub.Image(repo, "big", fakehub.RandomBlob(1, 2*mib), fakehub.RandomBlob(2, mib))
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			var last warm.Progress
			if _, err := r.Warm.Image(t.Context(), ref(t, "demo:big"), warm.Request{}, func(p warm.Progress) { last = p }); err != nil {
				t.Error(err)
			}
			if last.Objects != 4 || last.ObjectsTotal != 4 || last.Bytes != last.BytesTotal || len(last.Running) > 0 {
				t.Errorf("%+v", last)
			}
		})
		all.Go(func() {
			for _, l := range img.Layers {
				if body := r.get(repo + "/blobs/" + l.Digest.String()); digest.FromBytes(body) != l.Digest {
					t.Error("wrong bytes")
				}
			}
		})
	}
	all.Wait()
	for _, l := range img.Layers {
		if n := r.hub.BytesSent(l.Digest); n > l.Size+4*kib { // the redirects have bodies
			t.Errorf("%d bytes crossed the line for %d", n, l.Size)
		}
	}
}

// TestNotStored: what is larger than the cache takes is an error that says so.
func TestNotStored(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.ImageOf(repo, "huge", v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: r.hub.AddRandomBlob(repo, 1, 129*mib), Size: 129 * mib})
	_, err := r.Warm.Image(t.Context(), ref(t, "demo:huge"), warm.Request{}, nil)
	if !errors.Is(err, cache.ErrNotStored) || !strings.Contains(err.Error(), "too large") && !strings.Contains(err.Error(), "larger") {
		t.Errorf("%v", err)
	}
	// The size that a manifest gives is a hint; the answer decides.
	r.hub.ImageOf(repo, "liar", v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: r.hub.AddRandomBlob(repo, 1, 129*mib), Size: 1})
	if _, err := r.Warm.Image(t.Context(), ref(t, "demo:liar"), warm.Request{}, nil); !errors.Is(err, cache.ErrNotStored) {
		t.Errorf("%v", err)
	}
}

// TestRestricted: what the box's credentials gave to a shared repository is asked
// for again where a public one names it.
func TestRestricted(t *testing.T) {
	r := newRig(t, rigOptions{
		hub: fakehub.Options{Users: map[string]string{"box": "secret"}},
		environ: []string{
			"HUBCAP_UPSTREAM_0_USERNAME=box", "HUBCAP_UPSTREAM_0_PASSWORD=secret",
			"HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=acme/**",
		},
	})
	layer := fakehub.RandomBlob(1, 5*kib)
	r.hub.SetPrivate("acme/app", "box")
	r.hub.Image("acme/app", "1", layer)
	if got := r.image("acme/app:1", warm.Request{}); got.Missing != 3 {
		t.Errorf("shared: %+v", got)
	}
	r.hub.Image(repo, "1", layer)
	r.hub.Reset()
	r.image("demo:1", warm.Request{})
	r.hub.Down(fakehub.RoleRegistry, fakehub.RoleToken, fakehub.RoleCDN)
	if body := r.get(repo + "/blobs/" + digest.FromBytes(layer).String()); len(body) != 5*kib {
		t.Error("it is not to be had in the public repository")
	}
	if n := r.hub.BytesSent(digest.FromBytes(layer)); n >= kib {
		t.Errorf("%d bytes for what is held", n)
	}
}
