package index

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// lose removes the index.
func lose(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, indexName)); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedSnapshot: what can be read of a snapshot is restored, the damaged
// file is kept for repair, and the restored index counts as complete.
func TestDamagedSnapshot(t *testing.T) {
	afterHeader := func(add string) func(string) string {
		return func(s string) string {
			head, rest, _ := strings.Cut(s, "\n")
			return head + "\n" + add + rest
		}
	}
	for _, tc := range []struct {
		name        string
		damage      func(content string) string
		least, most int // records that are restored
		kept        bool
	}{
		{"cut", func(s string) string { return s[:len(s)/4] }, 20, 100, true},
		{"garbage", func(string) string { return "garbage" }, 0, 0, true},
		{"empty", func(string) string { return "" }, 0, 0, false},
		{"another version", func(s string) string { return strings.Replace(s, `"version":2`, `"version":1`, 1) }, 0, 0, true},
		{"a line of garbage", afterHeader("garbage\n"), 200, 200, true},
		{"lines that are not records", afterHeader("{}\n{\"tag\":{\"name\":\"x\"}}\n{\"mediaType\":{\"digest\":\"sha256:../..\"}}\n"), 200, 200, true},
		{"a record that no index takes", afterHeader(`{"tag":{"registry":"docker.io","repository":"library/demo","kind":"tag","name":"` + strings.Repeat("x", 70_000) + `","digest":"` + string(digest.FromString("x")) + `","confirmed":"2026-01-01T00:00:00Z"}}` + "\n"), 200, 200, true},
		{"empty lines and no end of the last one", func(s string) string { return strings.TrimSuffix(afterHeader("\n \n")(s), "\n") }, 200, 200, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 100)
			name := filepath.Join(dir, snapshotName)
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			damaged := []byte(tc.damage(string(content)))
			if err := os.WriteFile(name, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			lose(t, dir)
			x := reopen(t, dir)
			n, err := count(x.db)
			if x.InMemory() || err != nil || n < tc.least || n > tc.most {
				t.Errorf("%d records, %v; want %d to %d", n, err, tc.least, tc.most)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadFile(filepath.Join(dir, rottenName)); (err == nil) != tc.kept || tc.kept && string(left) != string(damaged) {
				t.Errorf("kept are %d bytes, %v; want it kept: %v", len(left), err, tc.kept)
			}
			if err := reopen(t, dir).Close(); err != nil || aside(t, dir) > 0 {
				t.Errorf("what was restored was set aside %d times at the next start, %v", aside(t, dir), err)
			}
		})
	}
}

// TestHalfRestored starts after a process has died while it made a new index.
func TestHalfRestored(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 5)
	if err := os.Rename(filepath.Join(dir, indexName), filepath.Join(dir, newName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, snapshotName)); err != nil {
		t.Fatal(err)
	}
	fill(t, dir, 100)
	lose(t, dir)
	x := reopen(t, dir)
	checkFilled(t, x, 100)
	if !notThere(filepath.Join(dir, newName)) {
		t.Error("the half is still there")
	}
	if err := x.PutMediaType(digest.FromString("more"), "application/x"); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := snapshotRecords(filepath.Join(dir, snapshotName)); n != 201 || err != nil {
		t.Errorf("the snapshot has %d records, %v", n, err)
	}
}

// TestDiskFillsWhileRestoring shows that when the disk fills while a new index is made, the
// incomplete one is removed, and the index is in memory and complete.
func TestDiskFillsWhileRestoring(t *testing.T) {
	dir := t.TempDir()
	const tags = 2 * roomEach
	fill(t, dir, tags)
	lose(t, dir)
	looks := 0
	x := openWith(t, dir, func() (int64, error) {
		if looks++; looks > 2 { // before it is made, and once while it is
			return 0, nil
		}
		return 1 << 40, nil
	})
	if looks < 3 || !x.InMemory() {
		t.Fatalf("after %d looks the index is in memory: %v", looks, x.InMemory())
	}
	checkFilled(t, x, tags)
	for _, name := range []string{indexName, newName} {
		if !notThere(filepath.Join(dir, name)) {
			t.Errorf("%s is left", name)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, reopen(t, dir), tags)
}

// TestSetAsideAndNotRenewed starts after a process has died between setting an
// index aside and removing the files that mark it as damaged.
func TestSetAsideAndNotRenewed(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 100)
	if err := errors.Join(
		os.Rename(filepath.Join(dir, indexName), filepath.Join(dir, asideName+"20200102T000000.000Z")),
		os.WriteFile(filepath.Join(dir, damagedName), nil, 0o600),
		os.WriteFile(filepath.Join(dir, openingName), []byte(".."), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		x := reopen(t, dir)
		checkFilled(t, x, 100)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		if n := aside(t, dir); n != 1 {
			t.Errorf("%d indexes are aside", n)
		}
	}
}
