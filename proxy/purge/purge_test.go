package purge

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/cache/index"
)

// box is a cache and the tags that name what is in it.
type box struct {
	held      map[digest.Digest]int64
	parts     map[digest.Digest][]content.Part
	tags      map[index.Name]index.Tag
	links     map[index.LinkRecord]bool
	pinned    map[digest.Digest]bool
	kept      map[index.Name]string
	forgotten []index.Name
}

func newBox() *box {
	return &box{
		held: make(map[digest.Digest]int64), parts: make(map[digest.Digest][]content.Part), tags: make(map[index.Name]index.Tag),
		links: make(map[index.LinkRecord]bool), pinned: make(map[digest.Digest]bool), kept: make(map[index.Name]string),
	}
}

func (b *box) Parts(d digest.Digest) ([]content.Part, bool) {
	_, held := b.held[d]
	if !held {
		return nil, false
	}
	parts, ok := b.parts[d]
	return parts, ok
}

func (b *box) NamedBy(d digest.Digest) (all []digest.Digest) {
	for from := range b.parts {
		parts, _ := b.Parts(from)
		if slices.ContainsFunc(parts, func(p content.Part) bool { return p.Digest == d }) {
			all = append(all, from)
		}
	}
	return all
}

func (b *box) Purge(d digest.Digest, dryRun bool) (int64, bool) {
	size, held := b.held[d]
	if !dryRun {
		delete(b.held, d)
	}
	return size, held
}

func (b *box) Known(string, string) iter.Seq2[index.Name, index.Tag] {
	return maps.All(maps.Clone(b.tags))
}

func (b *box) Forget(name index.Name) { delete(b.tags, name) }

type links struct{ *box }

func (l links) Forget(registry, repository string, d digest.Digest) {
	delete(l.links, index.LinkRecord{Digest: d, Origin: index.Origin{Registry: registry, Repository: repository}})
}

func (b *box) purger() *Purger {
	return New(Options{
		Cache: b, Tags: b, Links: links{b}, Pinned: func(d digest.Digest) bool { return b.pinned[d] },
		Kept:      func(name index.Name) string { return b.kept[name] },
		Forgotten: func(names []index.Name) { b.forgotten = append(b.forgotten, names...) },
	})
}

func sum(s string) digest.Digest { return digest.FromString(s) }

// manifest adds a manifest that names others.
func (b *box) manifest(name string, parts ...string) {
	b.held[sum(name)] = 10
	b.parts[sum(name)] = nil
	for _, p := range parts {
		b.parts[sum(name)] = append(b.parts[sum(name)], content.Part{Digest: sum(p), Size: 1})
		if _, isManifest := b.parts[sum(p)]; !isManifest {
			b.held[sum(p)] = 100
		}
	}
}

func tagName(repository, tag string) index.Name {
	return index.Name{Registry: "docker.io", Repository: repository, Kind: index.KindTag, Name: tag}
}

func (b *box) tag(repository, tag string, digests ...string) {
	one := index.Tag{Digest: sum(digests[0])}
	for _, d := range digests[1:] {
		one.Earlier = append(one.Earlier, index.Earlier{Digest: sum(d)})
	}
	b.tags[tagName(repository, tag)] = one
}

// site is a box with an index of two images under one tag, an earlier image of it,
// and another tag that shares a layer.
func site() *box {
	b := newBox()
	b.manifest("amd64", "config", "layer", "base")
	b.manifest("arm64", "config arm", "layer arm")
	b.manifest("top", "amd64", "arm64")
	b.manifest("old", "old layer", "base")
	b.manifest("other", "other layer", "base")
	b.tag("library/demo", "1", "top", "old")
	b.tag("library/other", "1", "other")
	return b
}

func (b *box) holds(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { _, held := b.held[sum(name)]; return !held })
}

func purge(t *testing.T, b *box, r Request) Result {
	t.Helper()
	got, err := b.purger().Purge(r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return got
}

// TestTag: a tag goes with its history and with what nothing else needs.
func TestTag(t *testing.T) {
	b := site()
	got := purge(t, b, Request{Ref: "demo:1"})
	if want := (Result{Tags: []string{"docker.io/library/demo:1"}, Objects: 9, Bytes: 4*10 + 5*100, Shared: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !b.holds("other", "other layer", "base") || len(b.held) != 3 || len(b.tags) != 1 || !slices.Equal(b.forgotten, []index.Name{tagName("library/demo", "1")}) {
		t.Errorf("%d objects and %d tags are left", len(b.held), len(b.tags))
	}
	if _, err := b.purger().Purge(Request{Ref: "demo:1"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("again: %v", err)
	}
}

// TestStays: what another tag names, now or before, what a manifest without a tag
// names, and what is pinned by something else.
func TestStays(t *testing.T) {
	for name, other := range map[string]func(*box){
		"a tag":             func(b *box) { b.tag("library/x", "1", "amd64") },
		"a tag before":      func(b *box) { b.manifest("y"); b.tag("library/x", "1", "y", "amd64") },
		"an index":          func(b *box) { b.manifest("untagged", "amd64") },
		"an index of a tag": func(b *box) { b.manifest("index", "amd64"); b.tag("library/x", "1", "index") },
		"a pin": func(b *box) {
			for _, d := range []string{"amd64", "config", "layer", "base"} {
				b.pinned[sum(d)] = true
			}
		},
	} {
		b := site()
		other(b)
		purge(t, b, Request{Ref: "demo:1"})
		if !b.holds("amd64", "config", "layer", "base") || b.holds("top") || b.holds("arm64") || b.holds("layer arm") || b.holds("old") {
			t.Errorf("named by %s", name)
		}
	}
}

// TestKept: a pinned or frozen tag is refused, named alone or among others, and goes
// when it is forced.
func TestKept(t *testing.T) {
	b := site()
	b.kept[tagName("library/demo", "1")] = "it is pinned"
	for _, d := range []string{"top", "amd64", "config", "layer", "base"} {
		b.pinned[sum(d)] = true
	}
	before := len(b.held)
	if got, err := b.purger().Purge(Request{Ref: "demo:1"}); !errors.Is(err, ErrKept) || len(got.Kept) != 1 || len(b.held) != before || len(b.tags) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	got := purge(t, b, Request{Repository: "library/*"})
	if !slices.Equal(got.Kept, []Kept{{"docker.io/library/demo:1", "it is pinned"}}) || !slices.Equal(got.Tags, []string{"docker.io/library/other:1"}) || !b.holds("base", "old layer") {
		t.Errorf("%+v", got)
	}
	if got = purge(t, b, Request{Ref: "demo:1", Force: true}); len(b.held) != 0 || got.Kept != nil {
		t.Errorf("%+v, %d objects left", got, len(b.held))
	}
	b = site()
	b.pinned[sum("layer")] = true
	if _, err := b.purger().Purge(Request{Digest: sum("layer")}); !errors.Is(err, ErrKept) || !b.holds("layer") {
		t.Errorf("a pinned layer: %v", err)
	}
	if purge(t, b, Request{Digest: sum("layer"), Force: true}); b.holds("layer") {
		t.Error("a pinned layer stays though it is forced")
	}
}

// TestDigest: what is named by its digest goes, whatever names it; tags stay.
func TestDigest(t *testing.T) {
	b := site()
	if got := purge(t, b, Request{Digest: sum("base")}); got.Objects != 1 || b.holds("base") || len(b.tags) != 2 {
		t.Errorf("%+v", got)
	}
	got := purge(t, b, Request{Ref: "demo@" + sum("amd64").String()})
	if got.Objects != 3 || b.holds("amd64") || b.holds("layer") || !b.holds("top", "arm64") || len(b.tags) != 2 {
		t.Errorf("%+v", got)
	}
	for _, d := range []digest.Digest{sum("none"), sum("base")} {
		if _, err := b.purger().Purge(Request{Digest: d}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%v", err)
		}
	}
}

// TestGlobs matches repositories and tags, as an operator writes them.
func TestGlobs(t *testing.T) {
	names := []index.Name{
		tagName("library/nginx", "1.27"), tagName("library/nginx", "latest"), tagName("acme/app", "pr-1"),
		{Registry: "ghcr.io", Repository: "acme/deep/app", Kind: index.KindTag, Name: "pr-2"},
		{Registry: "docker.io", Repository: "library/nginx", Kind: index.KindTagList},
	}
	for glob, want := range map[string][]int{
		"nginx": {0, 1, 4}, "library/nginx": {0, 1, 4}, "docker.io/library/nginx": {0, 1, 4}, "nginx:1.*": {0}, "library/*": {0, 1, 4},
		"acme/*": {2}, "ghcr.io/**": {3}, "acme/**:pr-*": {2, 3}, "*": {0, 1, 2, 3, 4}, "ghcr.io/*": {}, "*:latest": {1},
	} {
		b := newBox()
		for i, name := range names {
			b.tags[name] = index.Tag{Digest: sum(fmt.Sprint(i))}
		}
		_, err := b.purger().Purge(Request{Repository: glob})
		var left []index.Name
		for i, name := range names {
			if !slices.Contains(want, i) {
				left = append(left, name)
			}
		}
		if len(want) == 0 != errors.Is(err, ErrUnknown) || len(b.tags) != len(left) {
			t.Errorf("%s: %v, %d left, want %d", glob, err, len(b.tags), len(left))
		}
		for _, name := range left {
			if _, ok := b.tags[name]; !ok {
				t.Errorf("%s: %s is gone", glob, name)
			}
		}
	}
	for _, bad := range []Request{{}, {Ref: "a", Repository: "b"}, {Ref: "A:B:C"}, {Repository: "[a"}, {Repository: "a:[b"}, {Repository: ":x"}, {Digest: "sha256:x"}} {
		if _, err := site().purger().Purge(bad); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestRestricted: the links of a restricted repository go with what they are of.
func TestRestricted(t *testing.T) {
	b := site()
	name := tagName("library/demo", "1")
	tag := b.tags[name]
	delete(b.tags, name)
	name.Restricted = true
	b.tags[name] = tag
	for d := range b.held {
		b.links[index.LinkRecord{Digest: d, Origin: index.Origin{Registry: "docker.io", Repository: "library/demo"}}] = true
	}
	purge(t, b, Request{Ref: "demo:1"})
	for link := range b.links {
		if _, held := b.held[link.Digest]; !held {
			t.Errorf("%v is still linked", link)
		}
	}
}

// TestDryRun: on random sites a dry run says what the run does and does nothing
// itself; what stays is whole for each tag that stays, and nothing that only the
// purged tags needed is left.
func TestDryRun(t *testing.T) {
	for seed := range uint64(300) {
		b := random(rand.New(rand.NewPCG(seed, 1)))
		before, tags := maps.Clone(b.held), len(b.tags)
		r := Request{Repository: "library/a*", DryRun: true}
		dry, err := b.purger().Purge(r)
		if len(b.held) != len(before) || len(b.tags) != tags {
			t.Fatalf("seed %d: a dry run removed something", seed)
		}
		r.DryRun = false
		run, runErr := b.purger().Purge(r)
		dry.DryRun = false
		if !reflect.DeepEqual(dry, run) || !errors.Is(runErr, err) && err != nil {
			t.Fatalf("seed %d: dry %+v %v, run %+v %v", seed, dry, err, run, runErr)
		}
		var bytes int64
		for d, size := range before {
			if _, held := b.held[d]; !held {
				bytes += size
			}
		}
		if len(before)-len(b.held) != run.Objects || bytes != run.Bytes {
			t.Fatalf("seed %d: %d objects, %d bytes went; %+v", seed, len(before)-len(b.held), bytes, run)
		}
		left := make(map[digest.Digest]bool)
		var visit func(d digest.Digest)
		visit = func(d digest.Digest) {
			if _, was := before[d]; left[d] || !was {
				return
			}
			left[d] = true
			if _, held := b.held[d]; !held {
				t.Fatalf("seed %d: something that is needed has gone", seed)
			}
			for _, p := range b.parts[d] {
				visit(p.Digest)
			}
		}
		for _, tag := range b.tags {
			for _, d := range digestsOf(tag) {
				visit(d)
			}
		}
	}
}

// random is a site of ten blobs, ten images, four indexes and six tags, of which two
// are of repositories that begin with a.
func random(r *rand.Rand) *box {
	b := newBox()
	var images, indexes []string
	for i := range 10 {
		images = append(images, fmt.Sprint("image", i))
		b.manifest(images[i], fmt.Sprint("blob", r.IntN(10)), fmt.Sprint("blob", r.IntN(10)))
	}
	for i := range 4 {
		indexes = append(indexes, fmt.Sprint("index", i))
		b.manifest(indexes[i], images[r.IntN(10)], images[r.IntN(10)])
		if i > 0 && r.IntN(3) == 0 {
			b.manifest(indexes[i], indexes[i-1], images[r.IntN(10)])
		}
	}
	all := slices.Concat(images, indexes)
	for i, repository := range []string{"library/a1", "library/a2", "library/b1", "library/b2", "library/b3", "library/b4"} {
		b.tag(repository, fmt.Sprint(i), all[r.IntN(len(all))], all[r.IntN(len(all))])
	}
	for d := range b.held {
		if r.IntN(10) == 0 {
			delete(b.held, d)
		}
	}
	return b
}
