package index

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func reopen(t *testing.T, dir string) *Index {
	t.Helper()
	x, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.db.Close() })
	return x
}

func TestFactsSurviveClosing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := reopen(t, dir)
	manifest, layer := digest.FromString("manifest"), digest.FromString("layer")
	tag := Tag{Digest: manifest, MediaType: "application/x", Size: 8, Confirmed: time.Unix(1_700_000_000, 0).UTC()}
	used := time.Unix(1_600_000_000, 0)
	for _, err := range []error{
		x.PutTag("docker.io/library/demo:latest", tag, true),
		x.PutTag("docker.io/library/demo:gone", tag, false),
		x.DeleteTag("docker.io/library/demo:gone"),
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
	if got, known, err := x.Tag("docker.io/library/demo:latest"); got != tag || !known || err != nil {
		t.Errorf("Tag = %+v, %v, %v; want %+v", got, known, err, tag)
	}
	if _, known, err := x.Tag("docker.io/library/demo:gone"); known || err != nil {
		t.Errorf("deleted tag: %v, %v", known, err)
	}
	for d, want := range map[digest.Digest]string{manifest: "application/x", layer: ""} {
		if got, err := x.MediaType(d); got != want || err != nil {
			t.Errorf("MediaType = %q, %v; want %q", got, err, want)
		}
	}
	found := map[digest.Digest]time.Time{}
	if err := x.Used(func(d digest.Digest, at time.Time) { found[d] = at }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || !found[manifest].Equal(used) {
		t.Errorf("Used = %v", found)
	}
}

func TestDamagedIndexIsSetAside(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"manifest of garbage", func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "MANIFEST")) }},
		{"key registry of garbage", func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "KEYREGISTRY")) }},
		{"a file in its place", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			overwrite(t, dir)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "index")
			x := reopen(t, dir)
			if err := x.PutMediaType(digest.FromString("a"), "application/x"); err != nil {
				t.Fatal(err)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			tc.damage(t, dir)
			x = reopen(t, dir)
			if err := x.PutMediaType(digest.FromString("a"), "application/x"); err != nil {
				t.Errorf("the new index does not work: %v", err)
			}
			aside, err := filepath.Glob(dir + ".bad-*")
			if err != nil || len(aside) != 1 {
				t.Errorf("set aside: %v, %v", aside, err)
			}
		})
	}
}

// TestIndexThatKillsTheProcess opens an index with a cut table in child
// processes: Badger panics where nobody can recover, and the third start goes
// on without the index.
func TestIndexThatKillsTheProcess(t *testing.T) {
	const variable = "HUBCAP_TEST_OPEN_INDEX"
	if dir := os.Getenv(variable); dir != "" {
		reopen(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "index")
	x := reopen(t, dir)
	if err := x.PutMediaType(digest.FromString("a"), "application/x"); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	if err := os.Truncate(tables[0], 10); err != nil {
		t.Fatal(err)
	}
	for start := 1; start <= 3; start++ {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), variable+"="+dir)
		out, err := child.CombinedOutput()
		if started := err == nil; started != (start == 3) {
			t.Fatalf("start %d: %v\n%s", start, err, out)
		}
	}
	aside, err := filepath.Glob(dir + ".bad-*")
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

func overwrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecordIsAnError(t *testing.T) {
	x := reopen(t, filepath.Join(t.TempDir(), "index"))
	for _, value := range []string{"{", `{"digest":"sha256:../../etc"}`, ""} {
		if err := x.set(tagPrefix+"a", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, known, err := x.Tag("a"); err == nil || known {
			t.Errorf("%q: known %v, err %v", value, known, err)
		}
	}
}

func TestDiskBytesLeavesOutHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if got := DiskBytes(dir); got > 1<<20 {
		t.Errorf("DiskBytes = %d for a sparse file", got)
	}
}
