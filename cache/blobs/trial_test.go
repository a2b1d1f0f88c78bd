//go:build linux

package blobs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mount mounts a file system for the test at dir.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); errors.Is(err, unix.EPERM) {
		t.Skip("only root may mount")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// statfsOf has the store read the free space of another, larger file system, as if a
// quota were not reported.
func statfsOf(t *testing.T, s *Store, options string) {
	t.Helper()
	dir := t.TempDir()
	mount(t, dir, options)
	larger, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.dir.Close()
	s.dir, s.trial.useful = larger, true
}

// TestRoomIsTried has a file system refuse bytes: there is no room then, the ballast is
// removed at once, and there is room again when the ballast and what Badger may write
// fit.
func TestRoomIsTried(t *testing.T) {
	const ballast = 8 << 20
	dir := t.TempDir()
	mount(t, dir, "size=64m")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.HoldBallast(ballast); err != nil {
		t.Fatal(err)
	}
	statfsOf(t, s, "size=1g")
	if free, err := s.Room(); err != nil || free == 0 {
		t.Fatalf("Room = %d, %v", free, err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	free, err := s.Room()
	space, err2 := s.Space()
	if free != 0 || !space.Full || space.Free < ballast || s.Ballast() != 0 || errors.Join(err, err2) != nil {
		t.Errorf("full: Room = %d, Space = %+v, a ballast of %d bytes, %v, %v", free, space, s.Ballast(), err, err2)
	}

	for _, tc := range []struct {
		taken int64 // by the filler
		full  bool
	}{{64<<20 - trialLarge - ballast/2, true}, {64<<20 - trialLarge - 2*ballast, false}} {
		if err := filler.Truncate(tc.taken); err != nil {
			t.Fatal(err)
		}
		s.trial.large = time.Time{} // long ago
		if space, err := s.Space(); space.Full != tc.full || err != nil {
			t.Errorf("%d bytes taken: Space = %+v, %v; want Full %v", tc.taken, space, err, tc.full)
		}
	}
	if free, err := s.Room(); err != nil || free == 0 {
		t.Errorf("at last, Room = %d, %v", free, err)
	}
}

// TestRefusedDownload shows that a refused write of a download counts like a refused
// trial.
func TestRefusedDownload(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=16m")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	statfsOf(t, s, "size=1g")
	w, err := s.Create(digest.FromString("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	for off := int64(0); err == nil; off += 1 << 20 {
		_, err = w.WriteAt(make([]byte, 1<<20), off)
	}
	if space, err2 := s.Space(); !NoSpace(err) || !space.Full || err2 != nil {
		t.Errorf("WriteAt: %v; Space = %+v, %v", err, space, err2)
	}
}

// TestMountedOver shows that a file system that is mounted over the store's path does not
// affect the store.
func TestMountedOver(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=64m")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before, err := s.Space()
	if err != nil {
		t.Fatal(err)
	}
	mount(t, dir, "size=1m,ro")
	after, err := s.Space()
	if after.Total != before.Total || after.ReadOnly || err != nil {
		t.Errorf("Space = %+v, %v; it was %+v", after, err, before)
	}
	if free, err := s.Room(); free == 0 || err != nil {
		t.Errorf("Room = %d, %v", free, err)
	}
}
