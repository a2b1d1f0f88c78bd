//go:build linux

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hubcap/cache/blobs"
	"hubcap/e2e/testkit"
)

// mounted mounts a file system for the test.
func mounted(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); errors.Is(err, unix.EPERM) {
		t.Skip("only root may mount")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// occupy fills a file system except for some bytes, as others may.
func occupy(t *testing.T, dir string, leave int64) (release func()) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "somebody-elses")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size := int64(s.Bavail)*s.Bsize - leave; size > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
			t.Fatal(err)
		}
	}
	return func() { _ = os.Remove(name) }
}

func TestOthersFillTheDisk(t *testing.T) {
	dir := mounted(t, "size=64m")
	const reserve = 8 * mib
	r := newRig(t, rigOptions{dir: dir, change: func(o *Options) { o.Reserve, o.Ballast, o.MinFree = reserve, 4*mib, mib }})
	body, d := randomContent(401, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	r.lookAtDisk()
	if got := r.o.Store.Ballast(); got != 4*mib || len(r.Degraded()) != 0 {
		t.Fatalf("ballast of %d bytes, degraded %v", got, r.Degraded())
	}

	release := occupy(t, dir, 256*kib)
	r.lookAtDisk()
	if got := r.Degraded(); !slices.Equal(got, []string{"space"}) {
		t.Errorf("degraded %v", got)
	}
	if r.o.Store.Ballast() != 0 {
		t.Error("the ballast was kept")
	}
	if now, _ := r.o.Metrics.Value("hubcap_degraded", "reason", "space"); now != 1 {
		t.Error("the metric does not say so")
	}
	big, bigDigest := randomContent(402, 16*mib)
	r.mustGet(d, &origin{body: body}, body)
	r.mustGet(bigDigest, &origin{body: big}, big)
	r.settle()
	if r.o.Ledger.Holds(bigDigest) {
		t.Error("it is kept where there is no room for it")
	}

	release()
	r.lookAtDisk()
	if got := r.Degraded(); len(got) != 0 || r.o.Store.Ballast() == 0 {
		t.Errorf("degraded %v, ballast of %d bytes after there is room again", got, r.o.Store.Ballast())
	}
	r.mustGet(bigDigest, &origin{body: big}, big)
	r.settle()
	if !r.o.Ledger.Holds(bigDigest) {
		t.Error("it is not kept though there is room again")
	}
}

// TestFirstMinuteOf1970 shows that a box whose clock has not been set yet has no failed
// write, and that one that fails then counts for a minute.
func TestFirstMinuteOf1970(t *testing.T) {
	for _, start := range []time.Duration{0, 30 * time.Second} {
		clock := testkit.NewClock(time.Unix(0, 0).Add(start))
		r := newRig(t, rigOptions{change: func(o *Options) { o.Now = clock.Now }})
		r.wantDegraded()
		r.writeFailed(unix.EIO)
		r.wantDegraded("writes")
		clock.Advance(writesProblem)
		r.wantDegraded()
		r.writeFailed(unix.EIO)
		clock.Advance(56 * 365 * 24 * time.Hour) // it is set
		r.wantDegraded()
	}
}

func TestMakeRoom(t *testing.T) {
	dir := mounted(t, "size=64m")
	r := newRig(t, rigOptions{dir: dir})
	one, d1 := randomContent(403, 8*mib)
	two, d2 := randomContent(404, 8*mib)
	r.mustGet(d1, &origin{body: one}, one)
	r.mustGet(d2, &origin{body: two}, two)
	r.settle()
	name := filepath.Join(dir, "blobs/open/sha256", d1.Encoded()[:2], d1.Encoded())
	if err := os.Chtimes(name, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := r.o.Store.HoldBallast(2 * mib); err != nil {
		t.Fatal(err)
	}
	r.stop()

	store, err := blobs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	occupy(t, dir, mib)
	log := slog.New(slog.DiscardHandler)
	if err := MakeRoom(store, 2*mib, log); err != nil || store.Ballast() != 0 {
		t.Fatalf("the ballast would do: %v, ballast %d", err, store.Ballast())
	}
	for _, d := range []fmt.Stringer{d1, d2} {
		if _, err := os.Stat(filepath.Join(dir, "blobs/open/sha256", d.String()[7:9], d.String()[7:])); err != nil {
			t.Fatalf("a blob went though the ballast did: %v", err)
		}
	}
	if err := MakeRoom(store, 8*mib, log); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest blob: %v", err)
	}
	if f, _, err := store.Open(d2, blobs.Public); err != nil {
		t.Errorf("the younger blob: %v", err)
	} else {
		f.Close()
	}
	if err := MakeRoom(store, 1<<40, log); err == nil {
		t.Error("there is more room than the file system has")
	}
}

func TestNoInodes(t *testing.T) {
	dir := mounted(t, "size=64m,nr_inodes=400")
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(407, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	others := filepath.Join(dir, "others")
	if err := os.Mkdir(others, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(others) // so that the rig can be closed
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(others, fmt.Sprint(i)), nil, 0o600); err != nil {
			break
		}
	}
	r.lookAtDisk()
	if got := r.Degraded(); !slices.Equal(got, []string{"inodes"}) {
		t.Errorf("degraded %v", got)
	}
	other, otherDigest := randomContent(408, mib)
	r.mustGet(otherDigest, &origin{body: other}, other)
	if origin := r.mustGet(d, nil, body); origin != Held {
		t.Errorf("what was held comes from %v", origin)
	}
	if n, _ := r.o.Metrics.Value("hubcap_uncached_total", "reason", "no_space"); n != 1 {
		t.Errorf("%v answers past the cache for want of room, want 1", n)
	}
}
