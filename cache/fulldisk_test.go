//go:build linux

package cache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// onSmallDisk mounts a file system of a few MiB with an index beside it that
// has room of its own, and returns the data directory.
func onSmallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(at, options string) {
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
			t.Skipf("mounting a small file system is not permitted here: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount(dir, options)
	mount(filepath.Join(dir, "index"), "size=1g")
	return dir
}

// TestDiskFull shows that a pull works while the disk is full, becomes full, or has no
// inodes left, that it leaves nothing behind, and that later blobs are stored again.
func TestDiskFull(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options string
		unsized bool
		size    int
		prepare func(t *testing.T, dir string)
	}{
		{"full before", "size=8m", false, 4 * mib, fillUp(6 * mib)},
		{"full before, size unknown", "size=8m", true, 4 * mib, fillUp(6 * mib)},
		{"full at the first byte, size unknown", "size=8m", true, mib, fillUp(8 * mib)},
		{"larger than the disk", "size=8m", false, 12 * mib, func(*testing.T, string) {}},
		{"larger than the disk, size unknown", "size=8m", true, 12 * mib, func(*testing.T, string) {}},
		{"no inode", "size=8m,nr_inodes=64", false, mib, useInodes(0)},
		{"one inode: no directory at the commit", "size=8m,nr_inodes=64", false, mib, useInodes(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := onSmallDisk(t, tc.options)
			r := newRig(t, rigOptions{dir: dir, limit: 64 * mib, change: func(o *Options) { o.MinFree = -64 * mib }})
			tc.prepare(t, dir)
			body, d := randomContent(240, tc.size)
			src := &origin{body: body, unsized: tc.unsized}
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					off := int64(i) * 1000
					n := int64(len(body)) - off
					if tc.unsized {
						off, n = 0, -1
					}
					got, _, err := r.get(d, src, off, n)
					if err != nil || !bytes.Equal(got, body[off:]) {
						t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			all.Wait()
			r.o.Ledger.SetOverhead(0)
			r.checkLedger()
			if err := os.RemoveAll(filepath.Join(dir, "others")); err != nil {
				t.Fatal(err)
			}
			small, d := randomContent(241, mib)
			r.mustGet(d, &origin{body: small}, small)
			r.settle()
			if _, ok := r.o.Ledger.Touch(d); !ok {
				t.Error("nothing is kept any more")
			}
			r.checkLedger()
		})
	}
}

func fillUp(bytes int64) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, "others"), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "others", "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for block := make([]byte, 4096); bytes > 0; bytes -= 4096 {
			if _, err := f.Write(block); err != nil {
				return
			}
		}
	}
}

// useInodes leaves a number of free inodes.
func useInodes(left int) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		others := filepath.Join(dir, "others")
		if err := os.Mkdir(others, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if err := os.WriteFile(filepath.Join(others, fmt.Sprint(i)), nil, 0o600); err != nil {
				for range left {
					i--
					if err := os.Remove(filepath.Join(others, fmt.Sprint(i))); err != nil {
						t.Fatal(err)
					}
				}
				return
			}
		}
	}
}
