package crash

import (
	"errors"
	"hubcap/e2e/testkit"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBudgetIsHard has 200 clients pull a working set of ten times the cache at random, whole and from somewhere on, and watches
// what the directory takes: files that are being read count too, whether they still have a name or not.
func TestBudgetIsHard(t *testing.T) {
	takesLong(t)
	random := begin(t)
	const budget, clients = 64 << 20, 200
	dir := newTmpfs(t, "size=1g")
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MAX_BLOB=16MiB", "HUBCAP_MIN_FREE=64MiB")
	blobs := s.publishMany(rounds(400, 2000), 1, 128<<10)
	for size := 0; size < 10*budget; {
		b := s.publish(1 + random.IntN(8<<20))
		blobs, size = append(blobs, b), size+len(b.content)
	}
	s.start(t, dir)
	var most atomic.Int64
	watched, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				most.Store(max(most.Load(), used(dir)))
			}
		}
	}()
	tr := s.traffic(clients, blobs)
	waitUntil(t, "clients pull", func() bool { return tr.pulls.Load() > int64(rounds(1500, 60_000)) || s.box.ended() })
	tr.end(t)
	close(done)
	<-watched
	s.box.assertAlive(t)
	m := s.box.scrape()
	t.Logf("%d pulls, %d evictions, %d streamed through; the directory took at most %d bytes of %d",
		tr.pulls.Load(), m.sum("hubcap_evictions_total"), m.sum("hubcap_uncached_total"), most.Load(), budget)
	if most.Load() > budget {
		t.Errorf("the directory took %d bytes, %d more than its budget", most.Load(), most.Load()-budget)
	}
	if m.sum("hubcap_evictions_total") == 0 {
		t.Error("nothing was evicted")
	}
	s.waitAccount(t, dir)
}

// newTmpfs mounts a file system in memory, which knows to the page what it holds.
func newTmpfs(t *testing.T, options string) (dir string) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		testkit.Unable(t, "tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// used is how many bytes a file system holds.
func used(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// TestOthersFillTheDisk has something else take every byte of the file system, while hubcap runs and before it starts. Badger writes
// through mapped memory, and a process that touches a page there is no room for is killed.
func TestOthersFillTheDisk(t *testing.T) {
	random := begin(t)
	dir := newTmpfs(t, "size=256m")
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=128MiB", "HUBCAP_MIN_FREE=8MiB")
	s.start(t, dir)
	others := filepath.Join(dir, "others")
	for round := range rounds(3, 50) {
		held := s.publishMany(6, 1<<20, 4<<20)
		s.hold(t, held...)
		s.tagged("filled")
		tr := s.traffic(4, s.blobs)
		fill(t, others)
		s.mustPull(t, s.publishMany(3, 1<<20, 16<<20)...)
		fill(t, others) // the room that was given up
		before := tr.pulls.Load()
		waitUntil(t, "clients pull on", func() bool { return tr.pulls.Load() > before+50 || s.box.ended() })
		tr.end(t)
		s.box.assertAlive(t)
		if round%2 == 0 {
			s.box.stop(t)
		} else {
			s.box.kill()
		}
		fill(t, others)
		if box, tries := s.supervise(t, dir, 1); box == nil || tries > 1 {
			t.Fatalf("in round %d hubcap does not start", round)
		}
		s.mustPull(t, s.blobs...)
		s.box.assertAlive(t)
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
		s.forget(30)
	}
}

// fill takes what a file system has left.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) >= 4096; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}
