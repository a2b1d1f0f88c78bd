package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/bundle"
	"hubcap/proxy/freshness"
	"hubcap/proxy/warm"
)

type freshLine = freshness.Line

// TestRoundTrip takes images from a box to one that is offline, which serves them
// then. The files of the bundle may come in any order.
func TestRoundTrip(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	m := newMulti(hub, "1.0", 10)
	single := hub.Image("library/other", "v2", fakehub.RandomBlob(50, 20*kib))
	order := bundle.Order{Refs: refs(t, "demo:1.0", "other:v2"), Platforms: []string{warm.AllPlatforms}}
	text := from.export(order)
	order.Refs = refs(t, "other:v2", "demo:1.0", "demo:1.0")
	if !bytes.Equal(text, from.export(order)) {
		t.Error("the same content is not the same bytes")
	}
	all := entries(t, text)
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	for name, text := range map[string][]byte{"as written": text, "backwards": archive(t, backwards...)} {
		t.Run(name, func(t *testing.T) {
			to := newRig(t, rigOptions{})
			dry := to.take(text, bundle.Intake{DryRun: true})
			if to.objects() != 0 || len(dry.Images) != 2 || !dry.Images[0].OK || dry.Images[0].Set {
				t.Errorf("%+v", dry)
			}
			got := to.take(text, bundle.Intake{})
			if len(got.Images) != 2 || got.Objects != dry.Objects || got.Bytes != dry.Bytes || got.Objects != len(all)-2 || to.objects() != got.Objects || got.Bad != nil {
				t.Fatalf("%+v, dry run %+v, %d stored", got, dry, to.objects())
			}
			for _, one := range got.Images {
				if !one.OK || !one.Set || one.Why != "" || to.via(one.Ref) != "import" {
					t.Errorf("%+v, via %s", one, to.via(one.Ref))
				}
			}
			to.serves(repo, "1.0", m.top, m.amd64, m.arm64, m.attest)
			to.serves("library/other", "v2", single.Manifest, single)
			if again := to.take(text, bundle.Intake{}); again.Objects != 0 || again.Held != len(all)-2 || !again.Images[0].OK {
				t.Errorf("again: %+v", again)
			}
		})
	}
}

// TestSparse leaves out platforms, and what the other box holds.
func TestSparse(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	one := newMulti(hub, "1", 10)
	order := bundle.Order{Refs: refs(t, "demo:1"), Platforms: []string{"linux/amd64"}}
	first := from.export(order)
	if len(first) > 200*kib {
		t.Errorf("%d bytes", len(first))
	}
	to := newRig(t, rigOptions{})
	if got := to.take(first, bundle.Intake{}); !got.Images[0].OK || !slices.Equal(got.Images[0].Platforms, []string{"linux/amd64"}) {
		t.Errorf("%+v", got)
	}
	to.serves(repo, "1", one.top, one.amd64)

	hub.Image(repo, "2", fakehub.RandomBlob(10, 3*kib), fakehub.RandomBlob(99, kib)) // shares a layer
	order = bundle.Order{Refs: refs(t, "demo:2"), NotIn: to.Bundle.Holdings()}
	second := from.export(order)
	if n := len(entries(t, second)); n != 2+3 {
		t.Errorf("%d files", n)
	}
	if got := to.take(second, bundle.Intake{}); !got.Images[0].OK || got.Objects != 3 {
		t.Errorf("%+v", got)
	}
	empty := newRig(t, rigOptions{})
	got := empty.take(second, bundle.Intake{})
	if one := got.Images[0]; one.OK || one.Set || len(one.Missing) != 1 || !strings.Contains(one.Why, "neither in the bundle nor held") || empty.objects() != 0 || empty.via("demo:2") != "" {
		t.Errorf("%+v, %d objects", got, empty.objects())
	}
	got = empty.take(second, bundle.Intake{Partial: true})
	if one := got.Images[0]; one.OK || !one.Set || empty.objects() != 3 || empty.via("demo:2") != "import" {
		t.Errorf("in part: %+v, %d objects", got, empty.objects())
	}
	// What is left out is left out even of the tree.
	order.NotIn = from.Bundle.Holdings()
	if n := len(entries(t, from.export(order))); n != 2 {
		t.Errorf("%d files", n)
	}
}

// TestNotHeld: what is missing is fetched, and named where it cannot be.
func TestNotHeld(t *testing.T) {
	offline := newRig(t, rigOptions{})
	if _, err := offline.Bundle.Plan(t.Context(), bundle.Order{Refs: refs(t, "demo:1")}); err == nil || !strings.Contains(err.Error(), "docker.io/library/demo:1") {
		t.Errorf("%v", err)
	}
	if _, err := offline.Bundle.Plan(t.Context(), bundle.Order{}); !errors.Is(err, warm.ErrNothing) {
		t.Errorf("%v", err)
	}
	if _, err := offline.Bundle.Plan(t.Context(), bundle.Order{Refs: refs(t, "example.org/demo:1")}); !errors.Is(err, warm.ErrUnknownRegistry) {
		t.Errorf("%v", err)
	}
}

// TestShared: what the box's credentials have pulled leaves it only when that is
// said, and is as restricted at the other box.
func TestShared(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{"box": "secret"}})
	hub.SetPrivate("acme/app", "box")
	image := hub.Image("acme/app", "1", fakehub.RandomBlob(1, 50*kib))
	from := newRig(t, rigOptions{hub: hub, environ: []string{
		"HUBCAP_UPSTREAM_0_USERNAME=box", "HUBCAP_UPSTREAM_0_PASSWORD=secret", "HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=acme/**",
	}})
	order := bundle.Order{Refs: refs(t, "acme/app:1")}
	if _, err := from.Bundle.Plan(t.Context(), order); !errors.Is(err, bundle.ErrShared) {
		t.Errorf("%v", err)
	}
	order.Shared = true
	text := from.export(order)
	to := newRig(t, rigOptions{environ: []string{"HUBCAP_UPSTREAM_0_USERNAME=box", "HUBCAP_UPSTREAM_0_PASSWORD=secret", "HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=acme/**", "HUBCAP_STALE_IF_ERROR=24h"}})
	if got := to.take(text, bundle.Intake{}); !got.Images[0].OK {
		t.Errorf("%+v", got)
	}
	to.serves("acme/app", "1", image.Manifest, image)
	for _, path := range []string{"library/demo/blobs/", "acmex/app/blobs/"} {
		if status, _ := to.try(path + image.Layers[0].Digest.String()); status == 200 {
			t.Errorf("%s shows it", path)
		}
	}
	closed := newRig(t, rigOptions{})
	if got := closed.take(text, bundle.Intake{}); got.Images[0].OK || !strings.Contains(got.Images[0].Why, "not shared here") || closed.objects() != 0 {
		t.Errorf("%+v", got)
	}
}

// TestNames: how images get their names.
func TestNames(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	hub.Image(repo, "1", fakehub.RandomBlob(1, kib))
	from := newRig(t, rigOptions{hub: hub})
	files := entries(t, from.export(bundle.Order{Refs: refs(t, "demo:1")}))
	named := func(names ...string) []byte {
		var index v1.Index
		must(t, json.Unmarshal(files[1].body, &index))
		one := index.Manifests[0]
		index.Manifests = nil
		for _, name := range names {
			one.Annotations = map[string]string{v1.AnnotationRefName: name}
			index.Manifests = append(index.Manifests, one)
		}
		text, err := json.Marshal(index)
		must(t, err)
		return archive(t, append([]entry{plain("index.json", text)}, files[2:]...)...)
	}
	to := newRig(t, rigOptions{})
	for _, row := range []struct {
		names []string
		as    string
		refs  string // those that are set
		why   string
	}{
		{[]string{"latest"}, "", "", "names no registry"},
		{[]string{"nginx:1"}, "", "", "names no registry"},
		{[]string{""}, "", "", "names no registry"},
		{[]string{"latest"}, "ghcr.io/acme/app", "ghcr.io/acme/app:latest", ""},
		{[]string{"nginx:1", "x:2", ""}, "quay.io/a/b", "quay.io/a/b:1 quay.io/a/b:2 quay.io/a/b:latest", ""},
		{[]string{"latest"}, "app:v1", "docker.io/library/app:v1", ""},
		{[]string{"quay.io/a/b:1", "docker.io/x/y:2"}, "", "quay.io/a/b:1 docker.io/x/y:2", ""},
		{[]string{"quay.io/a/b:1"}, "app:v1", "docker.io/library/app:v1", ""},
		{[]string{"quay.io/a/b:1", "v2"}, "app", "quay.io/a/b:1 docker.io/library/app:v2", ""},
		{[]string{"unknown.example/a:1"}, "", "", "not configured"},
		{[]string{"quay.io/A/b:1"}, "", "", "no image reference"},
		{[]string{"not a tag"}, "app", "", "is no tag"},
		{[]string{"quay.io/a/b@" + digest.FromString("x").String()}, "", "", "another digest"},
	} {
		got := to.take(named(row.names...), bundle.Intake{As: row.as})
		var set []string
		why := ""
		for _, one := range got.Images {
			why += one.Why
			if one.Set {
				set = append(set, one.Ref)
			}
		}
		if strings.Join(set, " ") != row.refs || !strings.Contains(why, row.why) || (why == "") != (row.why == "") {
			t.Errorf("%q as %q: %+v", row.names, row.as, got.Images)
		}
	}
	for as, want := range map[string]error{"a/B": bundle.ErrNames, "app@" + digest.FromString("x").String(): bundle.ErrNames} {
		if _, err := to.Bundle.Import(t.Context(), bytes.NewReader(named("x")), bundle.Intake{As: as}, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", as, err)
		}
	}
}

// TestFrozen: a frozen tag stays, and a known one moves with its history.
func TestFrozen(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub, environ: []string{"HUBCAP_TAG_TTL=1ms"}})
	hub.Image(repo, "1", fakehub.RandomBlob(1, kib))
	old := from.export(bundle.Order{Refs: refs(t, "demo:1")})
	hub.Image(repo, "1", fakehub.RandomBlob(2, kib))
	now := from.export(bundle.Order{Refs: refs(t, "demo:1")})
	to := newRig(t, rigOptions{})
	to.take(old, bundle.Intake{})
	repository, err := to.Warm.Repository(refs(t, "demo:1")[0])
	must(t, err)
	_, err = repository.Freeze(t.Context(), "1", freshness.FreezeOrder{})
	must(t, err)
	if got := to.take(now, bundle.Intake{}); got.Images[0].OK || !strings.Contains(got.Images[0].Why, "frozen") {
		t.Errorf("%+v", got)
	}
	_, err = repository.Thaw("1")
	must(t, err)
	if got := to.take(now, bundle.Intake{}); !got.Images[0].OK {
		t.Errorf("%+v", got)
	}
	if lines, _, err := repository.History("1"); err != nil || len(lines) != 2 || lines[0].Via != "import" {
		t.Errorf("%+v, %v", lines, err)
	}
}

// TestBroken cuts a bundle at many places: nothing is left of it.
func TestBroken(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	newMulti(hub, "1", 10)
	text := from.export(bundle.Order{Refs: refs(t, "demo:1"), Platforms: []string{"all"}})
	to := newRig(t, rigOptions{})
	for i := range 20 {
		cut := len(text) * i / 20
		if i > 10 {
			cut = 512 * (i - 10) * 3
		}
		_, err := to.Bundle.Import(t.Context(), io.MultiReader(bytes.NewReader(text[:cut]), failing{}), bundle.Intake{}, nil)
		if !errors.Is(err, bundle.ErrBroken) && !errors.Is(err, bundle.ErrNoBundle) || to.objects() != 0 || to.via("demo:1") != "" {
			t.Errorf("cut at %d: %v, %d objects", cut, err, to.objects())
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	if _, err := to.Bundle.Import(ctx, bytes.NewReader(text), bundle.Intake{}, nil); !errors.Is(err, errTest) || to.objects() != 0 {
		t.Errorf("%v", err)
	}
	testkit.Eventually(t, "their room is free", func() bool { s := to.Ledger.Status(); return s.Used() == s.Overhead })
	if got := to.take(text, bundle.Intake{}); !got.Images[0].OK {
		t.Errorf("%+v", got)
	}
}

var errTest = errors.New("test")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errTest }

// TestDamaged: a file with wrong bytes costs the images that name it, and no others.
func TestDamaged(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	a := hub.Image(repo, "a", fakehub.RandomBlob(1, 5*mib))
	hub.Image(repo, "b", fakehub.RandomBlob(2, kib))
	files := entries(t, from.export(bundle.Order{Refs: refs(t, "demo:a", "demo:b")}))
	for i := range files {
		if strings.HasSuffix(files[i].Name, a.Layers[0].Digest.Encoded()) {
			files[i].body[4*mib]++
		}
	}
	to := newRig(t, rigOptions{})
	got := to.take(archive(t, files...), bundle.Intake{})
	if got.Images[0].OK || !got.Images[1].OK || len(got.Bad) != 1 || !strings.Contains(got.Images[0].Why, "damaged") || to.objects() != 3 {
		t.Errorf("%+v, %d objects", got, to.objects())
	}
	to.serves(repo, "b", v1.Descriptor{Digest: got.Images[1].Digest, Size: size(files, got.Images[1].Digest)})
	// Held before, so that nothing would be stored: it is found all the same.
	if got := from.take(archive(t, files...), bundle.Intake{}); len(got.Bad) != 1 {
		t.Errorf("%+v", got)
	}
}

func size(files []entry, d digest.Digest) int64 {
	for _, f := range files {
		if strings.HasSuffix(f.Name, d.Encoded()) {
			return f.Size
		}
	}
	return -1
}

// TestRoom: the budget and the largest blob hold for a bundle too.
func TestRoom(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	hub.Image(repo, "large", fakehub.RandomBlob(1, 20*mib))
	hub.Image(repo, "wide", fakehub.RandomBlob(2, 9*mib), fakehub.RandomBlob(3, 9*mib), fakehub.RandomBlob(4, 9*mib), fakehub.RandomBlob(5, 9*mib))
	hub.Image(repo, "small", fakehub.RandomBlob(6, kib))
	text := from.export(bundle.Order{Refs: refs(t, "demo:large", "demo:wide", "demo:small")})
	to := newRig(t, rigOptions{cache: 30 * mib})
	got := to.take(text, bundle.Intake{})
	ok := make(map[string]bool)
	for _, one := range got.Images {
		ok[one.Ref] = one.OK
	}
	if ok["docker.io/library/demo:large"] || ok["docker.io/library/demo:wide"] || to.Ledger.Status().Used() > 30*mib {
		t.Errorf("%+v", got)
	}
	t.Logf("%+v", got)
}

// TestHostile: tars that are made to do harm.
func TestHostile(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	from := newRig(t, rigOptions{hub: hub})
	hub.Image(repo, "1", fakehub.RandomBlob(1, kib))
	files := entries(t, from.export(bundle.Order{Refs: refs(t, "demo:1")}))
	index := files[1].body
	deep := digest.FromString("")
	var nested []entry
	for i := range 50 {
		body := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, v1.MediaTypeImageIndex, deep)
		if i == 0 {
			body = []byte(`{"schemaVersion":2,"manifests":[]}`)
		}
		deep = digest.FromBytes(body)
		nested = append(nested, plain("blobs/sha256/"+deep.Encoded(), body))
	}
	top := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1,"annotations":{%q:"quay.io/a/b:1"}}]}`, v1.MediaTypeImageIndex, deep, v1.AnnotationRefName)
	raw := func(h tar.Header, body ...byte) entry { return entry{h, body} }
	sparse := raw(tar.Header{Name: "blobs/sha256/" + strings.Repeat("a", 64), Typeflag: tar.TypeReg, PAXRecords: map[string]string{"comment": strings.Repeat("x", 900*kib)}})
	to := newRig(t, rigOptions{})
	for name, row := range map[string]struct {
		text []byte
		err  error // of the whole; nil: there are images that are not taken
	}{
		"empty":              {nil, bundle.ErrNoBundle},
		"zeros":              {make([]byte, 4*mib), bundle.ErrNoBundle},
		"text":               {bytes.Repeat([]byte("hubcap "), 1000), bundle.ErrNoBundle},
		"no index":           {archive(t, files[2:]...), bundle.ErrNoBundle},
		"two indexes":        {archive(t, append(files, plain("./index.json", index))...), bundle.ErrNoBundle},
		"index is a list":    {archive(t, plain("index.json", []byte("[]"))), bundle.ErrNoBundle},
		"index is deep":      {archive(t, plain("index.json", []byte(strings.Repeat(`{"a":`, 10000)))), bundle.ErrNoBundle},
		"index is large":     {archive(t, plain("index.json", make([]byte, cache.MaxManifest+1))), bundle.ErrTooMany},
		"wrong digest":       {archive(t, plain("index.json", []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}`))), bundle.ErrNoBundle},
		"nested":             {archive(t, append(nested, plain("index.json", top))...), nil},
		"a loop":             {archive(t, plain("index.json", fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"digest":%q,"size":1,"annotations":{%q:"quay.io/a/b:1"}}]}`, files[2].Name[13:], v1.AnnotationRefName))), bundle.ErrNoBundle},
		"names that climb":   {archive(t, plain("../../index.json", index), plain("blobs/sha256/../../../etc/passwd", nil), plain("/etc/passwd", []byte("x"))), bundle.ErrNoBundle},
		"links":              {archive(t, raw(tar.Header{Name: "index.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), raw(tar.Header{Name: "blobs", Typeflag: tar.TypeLink, Linkname: "/"}), raw(tar.Header{Name: "index.json", Typeflag: tar.TypeChar})), bundle.ErrNoBundle},
		"a large header":     {archive(t, sparse), bundle.ErrNoBundle},
		"saved list is text": {archive(t, plain("manifest.json", []byte("x"))), bundle.ErrNoBundle},
		"saved without":      {archive(t, plain("manifest.json", []byte(`[{"Config":"../../etc/passwd","Layers":["x"]}]`))), bundle.ErrNoBundle},
	} {
		got, err := to.Bundle.Import(t.Context(), bytes.NewReader(row.text), bundle.Intake{As: ""}, nil)
		if !errors.Is(err, row.err) || to.objects() != 0 || err == nil && got.Images[0].OK {
			t.Errorf("%s: %v %+v, %d objects", name, err, got, to.objects())
		}
	}
	lying := archive(t, plain("blobs/sha256/"+strings.Repeat("a", 64), make([]byte, 600)))
	copy(lying[124:], "77777777777") // of its size
	if _, err := to.Bundle.Import(t.Context(), bytes.NewReader(lying), bundle.Intake{}, nil); !errors.Is(err, bundle.ErrNoBundle) && !errors.Is(err, bundle.ErrBroken) || to.objects() != 0 {
		t.Errorf("a size that lies: %v", err)
	}
	// A file that comes twice, wrong the first time, counts once.
	twice := append([]entry{plain(files[3].Name, []byte("wrong"))}, files...)
	if got := to.take(archive(t, append(twice, files[2:]...)...), bundle.Intake{}); !got.Images[0].OK {
		t.Errorf("%+v", got)
	}
	if _, err := to.Bundle.Plan(t.Context(), bundle.Order{Refs: refs(t, "demo:1")}); err != nil {
		t.Errorf("and out again: %v", err)
	}
}
