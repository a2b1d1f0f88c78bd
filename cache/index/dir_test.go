//go:build linux

package index

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountedOver has a full file system mounted over the path of the data directory
// while the index is open: it is written where it was opened.
func TestMountedOver(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 10)
	x := reopen(t, dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); errors.Is(err, unix.EPERM) {
		t.Skip("only root may mount")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for i := range 20 {
		putTag(t, x, i)
	}
	x.snapshot()
	if err := errors.Join(x.sync(), x.Close(), unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	for _, without := range []func(){func() {}, func() { lose(t, dir) }} { // the index, the snapshot
		without()
		x = reopen(t, dir)
		checkFilled(t, x, 20)
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
}
