package index

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// tags is how many tags a damaged index has: enough for tables of several blocks.
const tags = 1000

// fillUnclean makes an index like that of a killed process: with tables, and with records
// that are only in the log of a memory table.
func fillUnclean(t *testing.T, dir string) {
	t.Helper()
	fill(t, dir, tags/2)
	running := t.TempDir()
	mustCopy(t, running, dir)
	x := reopen(t, running)
	for i := range tags {
		putTag(t, x, i)
	}
	x.snapshot()
	lose(t, dir)
	mustCopy(t, dir, running)
}

func putTag(t *testing.T, x *Index, i int) {
	t.Helper()
	d := digest.FromString(fmt.Sprint(i))
	if err := errors.Join(
		x.PutTag(demo(fmt.Sprint(i)), Tag{Digest: d, MediaType: "application/x", Size: 8, Confirmed: time.Unix(1, 0).UTC()}, false),
		x.PutMediaType(d, "application/x"),
	); err != nil {
		t.Fatal(err)
	}
}

// damage is something that can happen to a file.
type damage struct {
	name string
	do   func(path string) error
}

// rewritten is a damage that changes the content of a file.
func rewritten(name string, change func(content []byte) []byte) damage {
	return damage{name, func(path string) error {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return writeSparse(path, change(content))
	}}
}

// writeSparse writes a file with holes for its zeros: Badger's files are long,
// and nearly empty.
func writeSparse(path string, content []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	zeros := make([]byte, 64<<10)
	for off := 0; off < len(content); off += len(zeros) {
		piece := content[off:min(off+len(zeros), len(content))]
		if bytes.Equal(piece, zeros[:len(piece)]) {
			continue
		}
		if _, err := f.WriteAt(piece, int64(off)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(content)))
}

func mustCopy(t *testing.T, to, from string) {
	t.Helper()
	if err := testkit.CopyDir(to, from); err != nil {
		t.Fatal(err)
	}
}

func cut(share func(n int) int) func([]byte) []byte {
	return func(content []byte) []byte { return content[:share(len(content))] }
}

func flipped(at func(n int) int) func([]byte) []byte {
	return func(content []byte) []byte {
		if len(content) > 0 {
			content[at(len(content))] ^= 0xff
		}
		return content
	}
}

var damages = []damage{
	{"removed", os.Remove},
	rewritten("empty", cut(func(int) int { return 0 })),
	rewritten("cut to 10 bytes", cut(func(n int) int { return min(n, 10) })),
	rewritten("halved", cut(func(n int) int { return n / 2 })),
	rewritten("cut by one byte", cut(func(n int) int { return max(n-1, 0) })),
	rewritten("zeros", func(content []byte) []byte { return make([]byte, len(content)) }),
	rewritten("zeros in its second half", func(content []byte) []byte {
		clear(content[len(content)/2:])
		return content
	}),
	rewritten("garbage", func(content []byte) []byte { return []byte(strings.Repeat("garbage ", len(content)/8+1)) }),
	rewritten("flipped at its beginning", flipped(func(int) int { return 0 })),
	rewritten("flipped near its beginning", flipped(func(n int) int { return min(n-1, 20) })),
	rewritten("flipped in the middle", flipped(func(n int) int { return n / 2 })),
	rewritten("flipped near its end", flipped(func(n int) int { return max(n-6, 0) })),
	rewritten("flipped at its end", flipped(func(n int) int { return n - 1 })),
	{"a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
}

// TestDamagedFiles applies each damage to each kind of Badger's files, and with
// -short to one of them: the first start succeeds, on disk, with every tag, and
// so does the next.
func TestDamagedFiles(t *testing.T) {
	good := t.TempDir()
	fillUnclean(t, good)
	patterns := []string{"MANIFEST", "KEYREGISTRY", "DISCARD", "*.sst", "*.vlog", "*.mem"}
	for i, pattern := range patterns {
		for j, d := range damages {
			if testing.Short() && j%len(patterns) != i {
				continue
			}
			t.Run(strings.TrimPrefix(pattern, "*.")+" "+d.name, func(t *testing.T) {
				dir := t.TempDir()
				mustCopy(t, dir, good)
				found, err := filepath.Glob(filepath.Join(dir, indexName, pattern))
				if err != nil || len(found) == 0 {
					t.Fatalf("no %s: %v", pattern, err)
				}
				if err := d.do(found[0]); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					x := reopen(t, dir)
					checkFilled(t, x, tags)
					if x.InMemory() {
						t.Error("it is in memory")
					}
					if err := x.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestLostIndex starts without an index, or with something else in its place.
func TestLostIndex(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(path string) error
		aside  int
	}{
		{"no index", os.RemoveAll, 0},
		{"an empty index", func(path string) error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)) }, 1},
		{"a file in its place", func(path string) error {
			return errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("garbage"), 0o600))
		}, 1},
		{"no tables", func(path string) error {
			tables, err := filepath.Glob(filepath.Join(path, "*.sst"))
			for _, table := range tables {
				err = errors.Join(err, os.Remove(table))
			}
			return err
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 100)
			if err := tc.damage(filepath.Join(dir, indexName)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				x := reopen(t, dir)
				checkFilled(t, x, 100)
				if n := aside(t, dir); n != tc.aside || x.InMemory() {
					t.Errorf("%d set aside, want %d; in memory %v", n, tc.aside, x.InMemory())
				}
				if err := x.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestKilledTwiceWhileOpening starts after the process has died twice while it
// opened the index, although the check has passed.
func TestKilledTwiceWhileOpening(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 10)
	if err := os.WriteFile(filepath.Join(dir, openingName), []byte(".."), 0o600); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, reopen(t, dir), 10)
	if n := aside(t, dir); n != 1 {
		t.Errorf("%d set aside", n)
	}
}

// TestPanicAbandons has Badger panic in each kind of call, with one of its locks taken:
// the index continues in memory with what the snapshot has, no call waits forever, and
// the next start has an index on disk again.
func TestPanicAbandons(t *testing.T) {
	for name, call := range map[string]func(x *Index) error{
		// A closed Badger has no memory table, and its Sync panics with a lock taken.
		"sync": func(x *Index) error {
			return x.write(func(db *database) error { return errors.Join(db.Close(), db.Sync()) })
		},
		"read": func(x *Index) error { return x.read(func(*database) error { panic("as Badger does") }) },
		"scan": func(x *Index) error {
			return x.scan(tagFamily, "", func(string, []byte) error { panic("as Badger does") })
		},
		"write": func(x *Index) error { return x.write(func(*database) error { panic("as Badger does") }) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 10)
			var log testkit.Log
			x := openLogged(t, dir, plenty, &log)
			putTag(t, x, 0)
			if err := call(x); !errors.Is(err, errPanicked) {
				t.Fatalf("the call returned %v", err)
			}
			if !x.InMemory() || strings.Count(log.String(), "the index is abandoned") != 1 {
				t.Errorf("in memory %v; log:\n%s", x.InMemory(), &log)
			}
			checkFilled(t, x, 10)
			for i := range 20 {
				putTag(t, x, i)
			}
			if err := x.sync(); err != nil {
				t.Error(err)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			x = reopen(t, dir)
			checkFilled(t, x, 20)
			if x.InMemory() || aside(t, dir) != 1 {
				t.Errorf("after a start it is in memory %v, %d set aside", x.InMemory(), aside(t, dir))
			}
		})
	}
}

// TestPanicReleasesWrites has a write wait for Badger while it panics in
// another call.
func TestPanicReleasesWrites(t *testing.T) {
	x := reopen(t, t.TempDir())
	waiting, forever := make(chan struct{}), make(chan struct{})
	defer close(forever)
	written := make(chan error)
	go func() {
		written <- x.write(func(*database) error { close(waiting); <-forever; return nil })
	}()
	<-waiting
	if err := x.read(func(*database) error { panic("as Badger does") }); !errors.Is(err, errPanicked) {
		t.Fatal(err)
	}
	if err := <-written; !errors.Is(err, errAbandoned) {
		t.Errorf("the write that waited: %v", err)
	}
}

// TestClosed uses an index that is closed, and closes it again.
func TestClosed(t *testing.T) {
	x := reopen(t, t.TempDir())
	if err := errors.Join(x.Close(), x.Close()); err != nil {
		t.Fatal(err)
	}
	_, _, err := x.Tag(demo("a"))
	for _, err := range []error{err, x.DeleteTag(demo("a")), x.sync(), x.PutTotal(1), firstError(x.Tags("", ""))} {
		if !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}
