package blobs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *Store, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	w, err := s.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(int64(len(content)), Public); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCommitThenOpen(t *testing.T) {
	s := open(t, t.TempDir())
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromString("content")
		w, err := s.Create(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Allocate(1 << 20); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("content"), 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Open(d, Public); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: visible before its commit: %v", algorithm, err)
		}
		if _, err := w.Commit(7, Public); err != nil {
			t.Fatal(err)
		}
		f, stat, err := s.Open(d, Public)
		if err != nil || stat.Size != 7 {
			t.Fatalf("%s: Open = %+v, %v", algorithm, stat, err)
		}
		got, err := io.ReadAll(f)
		if err != nil || string(got) != "content" {
			t.Errorf("%s: read %q, %v", algorithm, got, err)
		}
		f.Close()
	}
}

func TestReadersFollowTheFileThroughCommit(t *testing.T) {
	s := open(t, t.TempDir())
	d := digest.FromString("content")
	w, err := s.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	before, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if _, err := w.WriteAt([]byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(7, Public); err != nil {
		t.Fatal(err)
	}
	after, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	for name, f := range map[string]*os.File{"opened before": before, "opened after": after} {
		if got, err := io.ReadAll(f); err != nil || string(got) != "content" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w, err := s.Create(digest.FromString("content"))
	if err != nil {
		t.Fatal(err)
	}
	w.Discard()
	w.Discard()
	if _, err := w.Open(); !errors.Is(err, ErrDiscarded) {
		t.Errorf("Open after Discard: %v", err)
	}
	if _, err := w.Commit(0, Public); err == nil {
		t.Error("Commit after Discard succeeds")
	}
	left, err := os.ReadDir(filepath.Join(dir, partialDir))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPartials(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	kept := digest.FromString("kept")
	for _, content := range []string{"kept", "b", "c"} {
		w, err := s.Create(digest.FromString(content))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte(content), 0); err != nil {
			t.Fatal(err)
		}
		if err := w.Save([]byte("note of " + content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, stray := range []string{"x", "sha256-12", "sha256-" + digest.FromString("d").Encoded() + ".note", "sha256-" + digest.FromString("kept").Encoded() + ".note.new"} {
		if err := os.WriteFile(filepath.Join(dir, partialDir, stray), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := s.Partials(func(p Partial) bool { return p.Digest == kept && string(p.Note) == "note of kept" && p.Size == 4 })
	if err != nil || removed != 4 {
		t.Errorf("Partials removed %d, %v; want 4", removed, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, partialDir))
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v; want the kept one and its note", left, err)
	}
	if err := s.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, partialDir)); err != nil || len(left) != 0 {
		t.Errorf("left behind after Remove: %v, %v", left, err)
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := digest.FromString("content")
	if _, _, err := s.Resume(d); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Resume of nothing: %v", err)
	}
	w, err := s.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte("cont"), 0); err != nil {
		t.Fatal(err)
	}
	for _, note := range []string{"old", "new"} {
		if err := w.Save([]byte(note)); err != nil {
			t.Fatal(err)
		}
	}
	w.Leave()
	w, p, err := s.Resume(d)
	if err != nil || string(p.Note) != "new" || p.Size != 4 {
		t.Fatalf("Resume = %q and %d bytes, %v", p.Note, p.Size, err)
	}
	if _, err := w.WriteAt([]byte("ent"), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(7, Public); err != nil {
		t.Fatal(err)
	}
	f, _, err := s.Open(d, Public)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "content" {
		t.Errorf("read %q, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, partialDir)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWalkVisitsBlobsAndRemovesTheRest(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := map[digest.Digest]int64{put(t, s, "one"): 3, put(t, s, "three"): 5}
	stray := filepath.Join(dir, Public.dir(), "sha256", "zz")
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes.txt", strings.Repeat("z", 64)} {
		if err := os.WriteFile(filepath.Join(stray, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(stray, "link")); err != nil {
		t.Fatal(err)
	}
	err := s.Walk(func(d digest.Digest, _ Class, size int64, modified time.Time) error {
		if want[d] != size || time.Since(modified) > time.Hour {
			t.Errorf("visited %s of %d bytes, modified %s", d, size, modified)
		}
		delete(want, d)
		return nil
	})
	if err != nil || len(want) != 0 {
		t.Errorf("Walk: %v; not visited: %v", err, want)
	}
	left, err := os.ReadDir(stray)
	if err != nil || len(left) != 0 {
		t.Errorf("strays left: %v, %v", left, err)
	}
}

func TestOpenRefusesWhatIsNotARegularFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		d := put(t, s, name)
		path := filepath.Join(dir, blobPath(d, Public))
		if err := errors.Join(os.Remove(path), replace(path)); err != nil {
			t.Fatal(err)
		}
		if f, _, err := s.Open(d, Public); err == nil {
			f.Close()
			t.Errorf("%s: opened", name)
		}
		if err := s.Remove(d); err != nil {
			t.Errorf("%s: Remove: %v", name, err)
		}
		if put(t, s, name) != d {
			t.Errorf("%s: not replaced", name)
		}
	}
	if _, err := os.Stat(secret); err != nil {
		t.Errorf("the link's target: %v", err)
	}
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second Open: %v, want an error that names %s", err, dir)
	}
	first.Close()
	open(t, dir)
}

func TestUnknownLayoutIsRefused(t *testing.T) {
	for _, unknown := range []string{"1", "7"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "layout"), []byte(unknown+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), `"`+unknown+`"`) {
			t.Fatalf("Open: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "blobs")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("a directory of another layout was changed")
		}
	}
}

func TestFree(t *testing.T) {
	s := open(t, t.TempDir())
	if free, err := s.Free(); err != nil || free <= 0 {
		t.Errorf("Free = %d, %v", free, err)
	}
}

// TestOpenFollowsNoLink has a symbolic link that leads out of the data directory where a
// directory should be.
func TestOpenFollowsNoLink(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	s := open(t, dir)
	d := put(t, s, "content")
	in := filepath.Dir(filepath.Join(dir, blobPath(d, Public)))
	if err := errors.Join(os.Rename(in, filepath.Join(outside, "there")), os.Symlink(filepath.Join(outside, "there"), in)); err != nil {
		t.Fatal(err)
	}
	if f, _, err := s.Open(d, Public); err == nil {
		t.Errorf("%s was opened", f.Name())
	}
}

func BenchmarkOpen(b *testing.B) {
	s := open(b, b.TempDir())
	d := put(b, s, "content")
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := s.Open(d, Public)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCutInTheCommit has somebody cut the file as soon as it has its name: what is
// committed has the length that was written, or is no blob.
func TestCutInTheCommit(t *testing.T) {
	dir := t.TempDir()
	s, d := open(t, dir), digest.FromString("content")
	name, cuts := filepath.Join(dir, blobPath(d, Public)), 0
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Truncate(name, 3)
			}
		}
	})
	for range 300 {
		w, err := s.Create(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("content"), 0); err != nil {
			t.Fatal(err)
		}
		stat, err := w.Commit(7, Public)
		switch {
		case err != nil:
			cuts++
		case stat.Size != 7:
			t.Fatalf("%d bytes are committed", stat.Size)
		}
		if err := s.Remove(d); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	cutting.Wait()
	t.Logf("%d of 300 were cut", cuts)
}
