package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/e2e/testkit"
)

// putManifest stores a manifest, and returns its digest once it is on disk.
func (r *rig) putManifest(body string) digest.Digest {
	r.t.Helper()
	d, stored := digest.FromString(body), make(chan struct{})
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: []byte(body)}, func() { close(stored) })
	<-stored
	return d
}

func imageOf(config string, layers ...string) string {
	all := make([]string, len(layers))
	for i, l := range layers {
		all[i] = fmt.Sprintf(`{"digest":"%s","size":%d}`, digest.FromString(l), len(l))
	}
	return fmt.Sprintf(`{"config":{"digest":"%s"},"layers":[%s]}`, digest.FromString(config), strings.Join(all, ","))
}

func indexOf(children ...digest.Digest) string {
	all := make([]string, len(children))
	for i, d := range children {
		all[i] = fmt.Sprintf(`{"digest":"%s"}`, d)
	}
	return `{"manifests":[` + strings.Join(all, ",") + `]}`
}

// images returns the digests of the images that are reached from d, sorted.
func (r *rig) images(d digest.Digest) (held []digest.Digest, missing int) {
	images, lacks := r.Images(d)
	for _, one := range images {
		held = append(held, one.Digest)
	}
	slices.Sort(held)
	return held, len(lacks)
}

// TestNestsOfIndexes reaches an image through six indexes, and from the image
// the indexes.
func TestNestsOfIndexes(t *testing.T) {
	r := newRig(t, rigOptions{})
	image := r.putManifest(imageOf("c", "a", "b"))
	top, nest := image, []digest.Digest(nil)
	for range 6 {
		top = r.putManifest(indexOf(digest.FromString("not held "+top.String()), top))
		nest = append(nest, top)
	}
	if held, missing := r.images(top); !slices.Equal(held, []digest.Digest{image}) || missing != 6 {
		t.Errorf("images %v, %d not held", held, missing)
	}
	if got := r.Indexes(image); !slices.Equal(got, nest) {
		t.Errorf("indexes %v, want %v", got, nest)
	}
}

// TestIndexThatNamesItself: walks end. No index can contain its own digest;
// the walks do not depend on it.
func TestIndexThatNamesItself(t *testing.T) {
	r := newRig(t, rigOptions{})
	a, b := r.putManifest(indexOf(digest.FromString("x"))), r.putManifest(indexOf(digest.FromString("y")))
	image := r.putManifest(imageOf("c"))
	child := func(d digest.Digest) content.Part { return content.Part{Digest: d, Role: content.RoleChild} }
	r.edges.Remove(a)
	r.edges.Remove(b)
	r.edges.Put(a, []content.Part{child(a), child(b)})
	r.edges.Put(b, []content.Part{child(a), child(image), child(b)})
	if held, missing := r.images(a); !slices.Equal(held, []digest.Digest{image}) || missing != 0 {
		t.Errorf("images %v, %d not held", held, missing)
	}
	if got := r.Indexes(image); len(got) != 2 {
		t.Errorf("indexes %v", got)
	}
	r.UseImage(a)
}

// TestEdgesFollowTheManifests: what is stored names its parts, also after a
// restart, until it is removed. On the way to that no file is read.
func TestEdgesFollowTheManifests(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	image := r.putManifest(imageOf("c", "a", "bb"))
	index := r.putManifest(indexOf(image))
	check := func(when string) {
		t.Helper()
		<-r.learned
		for _, d := range []digest.Digest{image, index} {
			file := filepath.Join(dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
			if err := os.Rename(file, file+".away"); err != nil {
				t.Fatal(err)
			}
			defer os.Rename(file+".away", file)
		}
		if held, missing := r.images(index); !slices.Equal(held, []digest.Digest{image}) || missing != 0 {
			t.Errorf("%s: images %v, %d not held", when, held, missing)
		}
		if size, named := r.Named(digest.FromString("bb")); size != 2 || !named {
			t.Errorf("%s: size %d, named %v", when, size, named)
		}
	}
	check("stored")
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	check("after a restart")
	if n := r.manifests.list.Len(); n != 0 {
		t.Errorf("%d manifests in memory", n)
	}

	r.o.Ledger.Evict(image)
	if held, missing := r.images(index); held != nil || missing != 1 {
		t.Errorf("evicted: images %v, %d not held", held, missing)
	}
	r.Remove(image)
	if _, named := r.Named(digest.FromString("bb")); named || r.edges.Len() != 1 {
		t.Errorf("removed: named %v, %d manifests", named, r.edges.Len())
	}
}

// TestEdgesOfManifestsInMemory: of a manifest that could not be stored nothing
// is known once it has left memory.
func TestEdgesOfManifestsInMemory(t *testing.T) {
	r := newRig(t, rigOptions{limit: 1, change: func(o *Options) { o.ManifestMemory = 2 * kib }})
	for i := range 50 {
		body := imageOf(fmt.Sprint("config ", i), "layer")
		r.PutManifest(Manifest{Digest: digest.FromString(body), MediaType: "m", Body: []byte(body)}, func() { t.Error("stored") })
	}
	held := r.Cache
	r.stop() // waits for the attempts to store
	if known, inMemory := held.edges.Len(), held.manifests.list.Len(); known != inMemory {
		t.Errorf("%d are known, %d in memory", known, inMemory)
	}
}

// TestPartsOfTheCaller shows that a manifest is not parsed again whose parts the
// caller knows, and that the parts are not kept beside the edges.
func TestPartsOfTheCaller(t *testing.T) {
	r := newRig(t, rigOptions{})
	body := imageOf("c", "a")
	d, part := digest.FromString(body), content.Part{Digest: digest.FromString("b"), Size: 1}
	stored := make(chan struct{})
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: []byte(body), Parts: []content.Part{part}}, func() { close(stored) })
	<-stored
	if parts, ok := r.Parts(d); !ok || !slices.Equal(parts, []content.Part{part}) {
		t.Errorf("%v, %v", parts, ok)
	}
	if m, ok := r.Manifest(d); !ok || m.Parts != nil {
		t.Errorf("%v, %v", m.Parts, ok)
	}
}

// TestDamagedManifestIsNotLearned: a start does not take what a damaged file
// names, and removes the file.
func TestDamagedManifestIsNotLearned(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body := imageOf("c", "a")
	d := r.putManifest(body)
	r.stop()
	file := filepath.Join(dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
	if err := os.WriteFile(file, []byte(strings.Replace(body, `"size":1`, `"size":2`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{dir: dir})
	<-r.learned
	if _, named := r.Named(digest.FromString("a")); named || r.o.Ledger.Holds(d) {
		t.Errorf("named %v, held %v", named, r.o.Ledger.Holds(d))
	}
}

// TestUseImage shows that the use of an index is a use of the layers of its
// images, at most once in useEvery, also for a manifest that has left memory.
func TestUseImage(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	r := newRig(t, rigOptions{change: func(o *Options) { o.Now = clock.Now }})
	layer := digest.FromString("layer")
	pull(t, r, Want{Digest: layer, Source: &origin{body: []byte("layer")}, Size: 5}, []byte("layer"))
	r.settle()
	d := r.putManifest(indexOf(r.putManifest(imageOf("c", "layer"))))
	used := func(when string, want bool) {
		t.Helper()
		r.usage.take()
		r.UseImage(d)
		if _, got := r.usage.take()[layer]; got != want {
			t.Errorf("%s: the layer is used: %v, want %v", when, got, want)
		}
	}
	used("first", true)
	clock.Advance(useEvery - time.Second)
	used("soon after", false)
	clock.Advance(time.Second)
	used("after useEvery", true)
	clock.Advance(-time.Hour)
	used("after the clock was set back", true)
	clock.Advance(useEvery)
	r.manifests.remove(d)
	used("from disk", true)
	used("from memory again", false)
}

// TestPlatformThatNobodyPulls: the use of an index is no use of the image of a
// platform that was last requested long before another one of it.
func TestPlatformThatNobodyPulls(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	r := newRig(t, rigOptions{change: func(o *Options) { o.Now = clock.Now }})
	var children []digest.Digest
	layers := []string{"amd64", "arm64"}
	for _, layer := range layers {
		pull(t, r, Want{Digest: digest.FromString(layer), Source: &origin{body: []byte(layer)}, Size: 5}, []byte(layer))
		children = append(children, r.putManifest(imageOf("c", layer)))
	}
	r.settle()
	index := r.putManifest(indexOf(children...))
	used := func(when string, want ...bool) {
		t.Helper()
		clock.Advance(useEvery)
		r.usage.take()
		r.UseImage(index)
		used := r.usage.take()
		for i, layer := range layers {
			if _, got := used[digest.FromString(layer)]; got != want[i] {
				t.Errorf("%s: the layer of %s is used: %v", when, layer, got)
			}
		}
	}
	used("at the start", true, true)
	r.UseImage(children[1])
	clock.Advance(platformsTogether / 2)
	r.UseImage(children[0])
	used("both were requested", true, true)
	clock.Advance(2 * platformsTogether)
	used("none was requested lately", true, true)
	r.UseImage(children[0])
	used("one was not requested lately", true, false)
	r.UseImage(children[1])
	used("it was requested again", true, true)
}

// BenchmarkWarmManifest is what a request for a manifest in memory costs here.
func BenchmarkWarmManifest(b *testing.B) {
	r := newRig(b, rigOptions{})
	d := r.putManifest(imageOf("c", "layer"))
	b.Run("Manifest", func(b *testing.B) {
		for b.Loop() {
			r.Manifest(d)
		}
	})
	b.Run("UseImage", func(b *testing.B) {
		for b.Loop() {
			r.UseImage(d)
		}
	})
}
