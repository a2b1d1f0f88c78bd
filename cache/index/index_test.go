package index

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	os.Exit(testkit.Main{M: m}.Run())
}

func reopen(t *testing.T, dir string) *Index {
	t.Helper()
	return openWith(t, dir, plenty)
}

func plenty() (int64, error) { return 1 << 40, nil }

func openWith(t *testing.T, dir string, free func() (int64, error)) *Index {
	t.Helper()
	return openLogged(t, dir, free, t.Output())
}

func openLogged(t *testing.T, dir string, free func() (int64, error), log io.Writer) *Index {
	t.Helper()
	x, err := Open(Options{
		Dir: dir, Room: free, Reserve: 1 << 20, Interval: time.Hour,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	opened := x.db
	t.Cleanup(func() {
		_ = x.Close()
		if !x.lost {
			_ = opened.Close() // which Close leaves open where there is no room
		}
	})
	return x
}

// demo is a tag of docker.io/library/demo.
func demo(tag string) Name {
	return Name{Registry: "docker.io", Repository: "library/demo", Kind: KindTag, Name: tag}
}

func firstError[R any](all iter.Seq2[R, error]) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestFactsSurviveClosing(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	manifest, layer := digest.FromString("manifest"), digest.FromString("layer")
	tag := Tag{Digest: manifest, MediaType: "application/x", Size: 8, Confirmed: time.Unix(1_700_000_000, 0).UTC()}
	used := time.Unix(1_600_000_000, 0)
	for _, err := range []error{
		x.PutTag(demo("latest"), tag, true),
		x.PutTag(demo("gone"), tag, false),
		x.DeleteTag(demo("gone")),
		x.PutMediaType(manifest, "application/x"),
		x.PutMediaType(layer, "application/y"),
		x.PutUsed(map[digest.Digest]time.Time{manifest: used, layer: used}),
		x.Forget(layer),
		x.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}

	x = reopen(t, dir)
	if got, known, err := x.Tag(demo("latest")); !reflect.DeepEqual(got, tag) || !known || err != nil {
		t.Errorf("Tag = %+v, %v, %v; want %+v", got, known, err, tag)
	}
	if _, known, err := x.Tag(demo("gone")); known || err != nil {
		t.Errorf("deleted tag: %v, %v", known, err)
	}
	for d, want := range map[digest.Digest]string{manifest: "application/x", layer: ""} {
		if got, err := x.MediaType(d); got != want || err != nil {
			t.Errorf("MediaType = %q, %v; want %q", got, err, want)
		}
	}
	found := map[digest.Digest]time.Time{}
	if err := x.Used("", func(d digest.Digest, at time.Time) { found[d] = at }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || !found[manifest].Equal(used) {
		t.Errorf("Used = %v", found)
	}
}

// fill puts tags and media types into the index below dir, and closes it.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	x := reopen(t, dir)
	for i := range n {
		d := digest.FromString(fmt.Sprint(i))
		if err := errors.Join(
			x.PutTag(demo(fmt.Sprint(i)), Tag{Digest: d, MediaType: "application/x", Size: 8, Confirmed: time.Unix(1, 0).UTC()}, false),
			x.PutMediaType(d, "application/x"),
		); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkFilled reports what the index lacks of what fill wrote.
func checkFilled(t *testing.T, x *Index, n int) {
	t.Helper()
	for i := range n {
		d := digest.FromString(fmt.Sprint(i))
		want := Tag{Digest: d, MediaType: "application/x", Size: 8, Confirmed: time.Unix(1, 0).UTC()}
		if got, known, err := x.Tag(demo(fmt.Sprint(i))); !reflect.DeepEqual(got, want) || !known || err != nil {
			t.Fatalf("tag %d: %+v, %v, %v", i, got, known, err)
		}
		if got, err := x.MediaType(d); got != "application/x" || err != nil {
			t.Fatalf("media type %d: %q, %v", i, got, err)
		}
	}
}

func aside(t *testing.T, dir string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "index.bad-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestLastTwoAreKeptAside(t *testing.T) {
	dir := t.TempDir()
	for i := range 4 {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("index.bad-2020010%dT000000.000Z", i), "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, dir, 1)
	if err := os.WriteFile(filepath.Join(dir, "index", "MANIFEST"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reopen(t, dir)
	if n := aside(t, dir); n != keptAside {
		t.Errorf("%d are kept", n)
	}
	if !notThere(filepath.Join(dir, "index.bad-20200102T000000.000Z")) {
		t.Error("an older one was kept")
	}
}

// TestFullDisk shows that an index without room on disk works in memory.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 10)
	free := int64(0)
	some := func() (int64, error) { return free, nil }
	x := openWith(t, dir, some)
	if !x.InMemory() {
		t.Fatal("Badger was opened on a full disk")
	}
	checkFilled(t, x, 10)
	if err := x.PutTag(demo("0"), Tag{Digest: digest.FromString("0"), Confirmed: time.Unix(2, 0)}, true); err != nil {
		t.Errorf("PutTag in memory: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}

	free = 1 << 40
	x = openWith(t, dir, some)
	free = 0
	if err := x.PutMediaType(digest.FromString("a"), "application/x"); !errors.Is(err, ErrNoRoom) {
		t.Errorf("PutMediaType on a full disk: %v", err)
	}
	if err := x.PutUsed(map[digest.Digest]time.Time{digest.FromString("a"): time.Now()}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("PutUsed on a full disk: %v", err)
	}
	if err := x.Close(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Close on a full disk: %v", err)
	}
}

func TestDamagedRecordIsAnError(t *testing.T) {
	x := reopen(t, t.TempDir())
	for _, value := range []string{"{", `{"digest":"sha256:../../etc"}`, ""} {
		if err := x.set(demo("a").key(), []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, known, err := x.Tag(demo("a")); err == nil || known {
			t.Errorf("%q: known %v, err %v", value, known, err)
		}
	}
}

func TestDiskBytes(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	before := x.DiskBytes()
	for name, size := range map[string]int{"index/x": 1 << 20, "index.bad-1/x": 1 << 20, "snapshot": 1 << 20, "blobs/x": 1 << 20} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "index", "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if got := x.DiskBytes() - before; got < 3<<20 || got > 4<<20 {
		t.Errorf("%d bytes more for 3 MiB, a directory, holes, and blobs that are not the index's", got)
	}
}

// TestMoved shows that a tag keeps what it named before, the latest first and each digest
// once, with the time when it was first seen and how it came.
func TestMoved(t *testing.T) {
	name := func(i int, confirmed int64) Tag {
		return Tag{Digest: digest.FromString(fmt.Sprint(i)), Confirmed: time.Unix(confirmed, 0), FirstSeen: time.Unix(confirmed, 0), Via: ViaCheck}
	}
	first := name(0, 0)
	first.Via = ViaPull
	tag := Tag{}.Moved(first)
	if len(tag.Earlier) != 0 || tag.Via != ViaPull {
		t.Errorf("a new tag: %+v", tag)
	}
	if tag = tag.Moved(name(0, 5)); tag.Confirmed.Unix() != 5 || tag.FirstSeen.Unix() != 0 || tag.Via != ViaPull || len(tag.Earlier) != 0 {
		t.Errorf("confirmed: %+v", tag)
	}
	tag = tag.Moved(name(1, 10))
	if want := []Earlier{{Digest: first.Digest, FirstSeen: 0, Confirmed: 5, Via: ViaPull}}; !slices.Equal(tag.Earlier, want) || tag.FirstSeen.Unix() != 10 || tag.Via != ViaCheck {
		t.Errorf("moved: %+v", tag)
	}
	for i := 2; i < 2*MaxEarlier; i++ {
		tag = tag.Moved(name(i, int64(10*i)))
	}
	if len(tag.Earlier) != MaxEarlier || tag.Earlier[0].Digest != name(2*MaxEarlier-2, 0).Digest {
		t.Errorf("%d earlier, the latest %v", len(tag.Earlier), tag.Earlier[0])
	}
	back := tag.Moved(name(2*MaxEarlier-2, 1000))
	if back.Earlier[0].Digest != tag.Digest || slices.ContainsFunc(back.Earlier, func(e Earlier) bool { return e.Digest == back.Digest }) {
		t.Errorf("moved back: %v", back.Earlier)
	}
}
