package crash

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTwoOwners starts a second hubcap on a directory that has one, under its name and under another: it goes away and says why. After
// a kill -9 of the first, the directory is free at once.
func TestTwoOwners(t *testing.T) {
	random := begin(t)
	s := newSite(t, random)
	dir := t.TempDir()
	for range rounds(3, 30) {
		s.start(t, dir)
		for name, path := range map[string]string{"the same path": dir, "a symbolic link": linkTo(t, dir), "a bind mount": bindOf(t, dir)} {
			if path == "" {
				continue
			}
			second := s.spawn(t, path)
			waitUntil(t, "the second hubcap ends", second.ended)
			if code := second.cmd.ProcessState.ExitCode(); code <= 0 {
				t.Errorf("%s: the second hubcap ended with %v, want an exit status that is not 0", name, second.cmd.ProcessState)
			}
			if !bytes.Contains(second.log.Bytes(), []byte(path)) {
				t.Errorf("%s: the second hubcap does not name %s:\n%s", name, path, second.log.Bytes())
			}
		}
		s.mustPull(t, s.publish(100_000)) // the first one is not bothered
		s.box.kill()
	}
	s.start(t, dir)
	s.mustPull(t, s.blobs...)
	s.assertAccount(t, dir)
}

func linkTo(t *testing.T, dir string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// bindOf is another mount of dir, "" where there can be none.
func bindOf(t *testing.T, dir string) string {
	t.Helper()
	other := t.TempDir()
	if err := unix.Mount(dir, other, "", unix.MS_BIND, ""); err != nil {
		t.Logf("without a bind mount: %v", err)
		return ""
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	return other
}
