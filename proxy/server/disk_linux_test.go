package server

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// TestSmallVolume starts with the defaults on a file system that is smaller than
// what would be kept free of a large one: something is kept all the same. When
// it has grown, so has the cache.
func TestSmallVolume(t *testing.T) {
	dir := t.TempDir()
	mount := func(options string, flags uintptr) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
			t.Skipf("mounting a small file system is not permitted here: %v", err)
		}
	}
	mount("size=256m", 0)
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	hub := fakehub.Start(t, fakehub.Options{})
	d := hub.AddBlob("library/demo", fakehub.RandomBlob(1, 1<<20))
	defaults := append(behind(t, hub), "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=", "HUBCAP_MIN_FREE=")

	small := start(t, defaults...)
	small.line("the file system is small: less of it is kept free than the default of HUBCAP_MIN_FREE")
	before := small.line("cache")["size"]
	if status, _, _ := small.get(small.mirror, "/v2/library/demo/blobs/"+d.String()); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	small.cancel()
	if err := small.wait(); err != nil {
		t.Fatal(err)
	}
	mount("size=4g", syscall.MS_REMOUNT)
	grown := start(t, defaults...)
	grown.line("the file system has grown, and the cache with it")
	if after := grown.line("cache")["size"]; before != "0.1GiB" || after != "2.0GiB" {
		t.Errorf("the cache has %v and then %v", before, after)
	}
}
