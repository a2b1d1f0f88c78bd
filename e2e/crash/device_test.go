package crash

import (
	"syscall"
	"testing"
)

// TestReadErrors has the disk fail to read what is cached, somewhere in the file: the rest comes from upstream in the same answer, and a
// good copy takes the place of the bad one. While the registry is down nothing is removed, and what can be read again is served.
func TestReadErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		beyond int64
		errno  syscall.Errno
	}{
		{"at once", 0, syscall.EIO},
		{"half-way", 512 << 10, syscall.EIO},
		{"a stale handle half-way", 512 << 10, syscall.ESTALE},
		{"a time-out half-way", 512 << 10, syscall.ETIMEDOUT},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t, begin(t))
			disk := newFaultFS(t)
			s.start(t, disk.dir)
			blobs := s.publishMany(rounds(10, 100), 768<<10, 1<<20)
			s.hold(t, blobs...)
			s.hub.Reset()
			bad := &fault{operation: reading, below: "blobs/", beyond: tc.beyond, errno: tc.errno}
			disk.inject(bad)
			s.hold(t, blobs...)
			disk.inject(nil)
			s.box.assertAlive(t)
			for _, b := range blobs {
				if s.crossed(b) == 0 {
					t.Errorf("%s was not fetched, though it could not be read", b.digest)
				}
			}
			if n := s.box.scrape()[`hubcap_checks_total{result="unreadable"}`]; n != int64(len(blobs)) {
				t.Errorf("%d blobs were found unreadable, want %d", n, len(blobs))
			}
			s.mustPull(t, blobs...)
			s.waitAccount(t, disk.backing)

			disk.inject(bad)
			s.hub.Down()
			for _, b := range blobs {
				if s.box.get(t.Context(), b, 0).err == nil {
					t.Errorf("%s comes from nowhere", b.digest)
				}
				if !holds(disk.backing, b) {
					t.Errorf("%s was removed, though it is good", b.digest)
				}
			}
			waitUntil(t, "the box says so", func() bool { return s.box.scrape()[`hubcap_degraded{reason="reads"}`] == 1 })
			disk.inject(nil)
			s.mustPull(t, blobs...)
			s.waitAccount(t, disk.backing)
			t.Logf("%d reads failed", bad.met.Load())
		})
	}
}

// TestWriteErrors has the disk fail to take what is downloaded, in each way and at each moment: the answers are right, nothing of it
// is kept, and once the disk is mended everything is.
func TestWriteErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  *fault
	}{
		{"EIO on fsync", &fault{operation: syncing, errno: syscall.EIO}},
		{"ENOSPC on allocation", &fault{operation: allocating, errno: syscall.ENOSPC}},
		{"EIO on allocation", &fault{operation: allocating, errno: syscall.EIO}},
		{"ENOSPC on the first write", &fault{operation: writing, errno: syscall.ENOSPC}},
		{"ENOSPC on a later write", &fault{operation: writing, beyond: 600 << 10, errno: syscall.ENOSPC}},
		{"EIO on a later write", &fault{operation: writing, beyond: 600 << 10, errno: syscall.EIO}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t, begin(t))
			disk := newFaultFS(t)
			s.start(t, disk.dir)
			blobs := s.publishMany(rounds(8, 100), 768<<10, 2<<20)
			tc.bad.below = "partial/"
			disk.inject(tc.bad)
			s.hold(t, blobs...)
			s.box.assertAlive(t)
			for _, b := range blobs {
				if holds(disk.backing, b) {
					t.Errorf("%s is held, and its file never reached the disk", b.digest)
				}
			}
			m := s.box.scrape()
			if n := m[`hubcap_fills_failed_total{reason="disk"}`] + m[`hubcap_uncached_total{reason="disk"}`] + m[`hubcap_uncached_total{reason="no_space"}`]; n < int64(len(blobs)) {
				t.Errorf("%d failures of the disk are counted, want %d", n, len(blobs))
			}
			s.waitAccount(t, disk.backing)
			disk.inject(nil)
			s.hold(t, blobs...)
			for _, b := range blobs {
				if !holds(disk.backing, b) {
					t.Errorf("%s is not held after the disk was mended", b.digest)
				}
			}
			s.waitAccount(t, disk.backing)
			t.Logf("%d operations failed", tc.bad.met.Load())
		})
	}
}
