package crash

import (
	"bytes"
	"errors"
	"fmt"
	"hubcap/e2e/testkit"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFullDisk pulls blobs that do not fit on the disk, alone and several at once, and while something else takes what is left. All
// of them come, and hubcap stays up.
func TestFullDisk(t *testing.T) {
	takesLong(t)
	random := begin(t, "mkfs.ext4", "mount")
	s := newSite(t, random, "HUBCAP_MIN_FREE=8MiB")
	d := newDisk(t, "ext4", 96<<20, "")
	s.start(t, d.data())
	filler := filepath.Join(d.dir, "filler")
	n := rounds(3, 25)
	for round := range n {
		large := s.publish(100 << 20)
		some := s.publishMany(3, 30<<20, 40<<20)
		s.mustPull(t, large)
		s.together(t, some...)
		if err := os.WriteFile(filler, make([]byte, 16<<20), 0o600); err != nil && round == 0 {
			t.Logf("filler: %v", err) // as much as there is room for
		}
		s.together(t, append(s.publishMany(2, 20<<20, 30<<20), some[0])...)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		s.box.assertAlive(t)
		s.waitAccount(t, d.data())
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		s.forget(1)
	}
	if s.box.scrape()[`hubcap_uncached_total{reason="no_space"}`] == 0 {
		t.Error("nothing was streamed through for want of space")
	}
	s.box.stop(t)
	s.start(t, d.data())
	s.mustPull(t, s.blobs...)
	s.assertAccount(t, d.data())
}

// together pulls blobs at the same time; all have to come.
func (s *site) together(t *testing.T, blobs ...*blob) {
	t.Helper()
	var all sync.WaitGroup
	for _, one := range blobs {
		all.Go(func() { s.mustPull(t, one) })
	}
	all.Wait()
}

// TestNoInodes pulls more blobs than the file system can have files.
func TestNoInodes(t *testing.T) {
	s := newSite(t, begin(t))
	dir := newTmpfs(t, "size=256m,nr_inodes=64")
	s.start(t, dir)
	many := s.publishMany(max(100, rounds(100, 400)), 1, 512<<10)
	s.mustPull(t, many...)
	s.box.assertAlive(t)
	s.waitAccount(t, dir)
	if s.box.scrape()[`hubcap_uncached_total{reason="no_space"}`] == 0 {
		t.Error("nothing was streamed through, so there were inodes for all")
	}
	s.box.kill()
	if box, _ := s.supervise(t, dir, 3); box == nil {
		t.Fatal("hubcap does not start")
	}
	s.mustPull(t, many...)
	s.assertAccount(t, dir)
}

// TestReadOnlyFileSystem has the disk go read-only in the middle of traffic, as ext4 does when it finds an error.
func TestReadOnlyFileSystem(t *testing.T) {
	takesLong(t)
	random := begin(t, "mkfs.ext4", "mount")
	s := newSite(t, random)
	d := newDisk(t, "ext4", 192<<20, "errors=remount-ro")
	s.start(t, d.data())
	d.sync(t)
	held := s.publishMany(20, 1, 2<<20)
	s.hold(t, held...)

	coming := s.publishMany(20, 1<<20, 4<<20)
	const clients = 3
	tr := s.traffic(clients, append(coming, held...))
	waitUntil(t, "clients pull", func() bool { return tr.pulls.Load() > 10 })
	d.failReadOnly(t)
	before := tr.pulls.Load()
	waitUntil(t, "clients pull on", func() bool { return tr.pulls.Load() > before+100 || s.box.ended() })
	tr.endBut(t, clients) // what was under way may have been lost under its reader, who has to hear of it
	s.box.assertAlive(t)
	waitUntil(t, "hubcap says that it is degraded", func() bool { return s.box.scrape()[`hubcap_degraded{reason="read_only"}`] == 1 })

	s.hub.Reset()
	s.mustPull(t, held...)
	for _, b := range held {
		if s.crossed(b) > 0 {
			t.Errorf("%s is held, and was fetched", b.digest)
		}
	}
	s.mustPull(t, s.publishMany(5, 1, 4<<20)...)
	s.box.assertAlive(t)
	s.box.kill()

	stray := filepath.Join(d.data(), "blobs", "open", "sha256", "stray")
	d.remount(t)
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.remountAs(t, "ro")
	s.start(t, d.data())
	s.hub.Reset()
	s.mustPull(t, held...)
	for _, b := range held {
		if s.crossed(b) > 0 {
			t.Errorf("%s is held, and was fetched after a start", b.digest)
		}
	}
	s.mustPull(t, s.publish(1<<20))
	s.box.kill()

	d.remountAs(t, "rw")
	s.start(t, d.data())
	s.assertAccount(t, d.data())
	s.mustPull(t, s.blobs...)
	if _, err := os.Lstat(stray); err == nil {
		t.Error("a stray file is still there")
	}
}

// TestBytesLostUnderAReader has the disk lose what a slow client has yet to read of a running fill, as a file system does
// that gives up before it has written everything: it reads as zeros then.
func TestBytesLostUnderAReader(t *testing.T) {
	takesLong(t)
	random := begin(t, "mkfs.ext4", "mount")
	for name, lost := range map[string]struct {
		from, to int
		comes    bool
	}{
		"some of it": {40 << 20, 41 << 20, false},
		"nothing":    {0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, random, "HUBCAP_FILL_CONNECTIONS=1")
			d := newDisk(t, "ext4", 192<<20, "errors=remount-ro")
			s.start(t, d.data())
			want := s.publish(64 << 20)
			goOn := make(chan struct{})
			s.hub.AddBlobFunc(repository, want.digest, 64<<20, func() (io.ReadSeekCloser, error) {
				return &gated{bytes.NewReader(want.content), 63 << 20, goOn}, nil
			})

			response, err := s.box.client.Get("http://" + s.box.mirror + "/v2/" + repository + "/blobs/" + want.digest.String())
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			partial := filepath.Join(d.data(), "partial", "sha256-"+want.digest.Encoded())
			waitUntil(t, "what the source gives is written", func() bool {
				info, err := os.Stat(partial)
				return err == nil && info.Size() == 63<<20
			})
			d.sync(t) // so that nothing is lost but what this test loses
			zero(t, partial, lost.from, lost.to)
			d.failReadOnly(t)
			close(goOn)

			same, err := matches(response.Body, want.content)
			if err == nil && !same {
				t.Error("wrong bytes in a complete answer")
			}
			if came := err == nil; came != lost.comes {
				t.Errorf("it ended with %v", err)
			}
			s.box.assertAlive(t)
			s.mustPull(t, want)
		})
	}
}

// gated gives what lies behind a gate when that is opened.
type gated struct {
	*bytes.Reader
	at   int64
	open chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	pos := g.Size() - int64(g.Len())
	if pos >= g.at {
		<-g.open
		return g.Reader.Read(p)
	}
	return g.Reader.Read(p[:min(int64(len(p)), g.at-pos)])
}

// WriteTo would go around the gate.
func (g *gated) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{g}) }

func (g *gated) Close() error { return nil }

// zero overwrites part of a file.
func zero(t *testing.T, name string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, to-from), int64(from))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// failReadOnly has the kernel find an error on the disk.
func (d *disk) failReadOnly(t *testing.T) {
	t.Helper()
	triggers, err := filepath.Glob("/sys/fs/ext4/loop*/trigger_fs_error")
	if err != nil || len(triggers) == 0 {
		testkit.Unable(t, "there is no trigger_fs_error")
	}
	device := d.device(t)
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", device, "trigger_fs_error"), []byte("hubcap's test\n"), 0o200); err != nil {
		testkit.Unable(t, "trigger_fs_error: %v", err)
	}
	probe := filepath.Join(d.dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err == nil {
		t.Fatal("the disk can still be written")
	}
}

// device is the name of the loop device that the disk is on.
func (d *disk) device(t *testing.T) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(d.dir, &stat); err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	target, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(target)
}

// TestQuota has hubcap reach a quota that statfs knows nothing of, as those of btrfs are, by its own pulls and because of others who
// take what is left to the last byte; it starts there, too. It stays up, says that it is degraded, and is well again when there is room.
func TestQuota(t *testing.T) {
	takesLong(t)
	s := newSite(t, begin(t, "mkfs.btrfs", "btrfs", "mount"), "HUBCAP_MIN_FREE=8MiB", "HUBCAP_TAG_TTL=1ms")
	d := newDisk(t, "btrfs", 768<<20, "")
	for _, args := range [][]string{{"quota", "enable", d.dir}, {"subvolume", "create", d.data()}, {"qgroup", "limit", "160M", d.data()}} {
		if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
			testkit.Unable(t, "btrfs %s: %v\n%s", args[0], err, out)
		}
	}
	s.start(t, d.data())
	s.pullNewTags(t, "before")
	s.mustPull(t, s.publishMany(12, 20<<20, 30<<20)...)
	s.pullNewTags(t, "by its own pulls")

	filler := filepath.Join(d.data(), "filler")
	for round := range rounds(3, 3) {
		fillUp(t, filler)
		s.pullNewTags(t, fmt.Sprintf("full-%d", round))
		s.box.assertAlive(t)
		s.mustPull(t, s.publishMany(2, 1, 10<<20)...)
		waitUntil(t, "hubcap says that it is degraded", func() bool {
			fillUp(t, filler) // also what it evicts
			s.tryPull(t, s.publish(1), 0)
			return s.box.ended() || s.box.scrape()[`hubcap_degraded{reason="space"}`] == 1
		})
		s.box.assertAlive(t)
	}
	s.box.kill()
	fillUp(t, filler)
	s.start(t, d.data())
	s.pullNewTags(t, "after a start")
	s.box.assertAlive(t)
	s.box.stop(t)

	remove(t, filler)
	s.start(t, d.data())
	waitUntil(t, "hubcap is well again", func() bool { return s.box.scrape()[`hubcap_degraded{reason="space"}`] == 0 })
	small := s.publish(1 << 20)
	s.hold(t, small)
	s.pullNewTags(t, "in the end")
	s.box.assertAlive(t)
	if !holds(d.data(), small) {
		t.Error("nothing is kept though there is room again")
	}
}

// pullNewTags pulls many new tags, each of which the index has to take, several at a time.
func (s *site) pullNewTags(t *testing.T, name string) {
	t.Helper()
	var all sync.WaitGroup
	for i := range 100 {
		tag := fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), i)
		image := s.tagged(tag)
		all.Go(func() { s.mustPullTags(t, map[string]*blob{tag: image}) })
	}
	all.Wait()
}

// fillUp has a file take what is left, to the last byte. It takes less than 16 MiB within 250 ms: hubcap tries that often
// whether a quota has so much left, and who is faster is beyond what it can see (operation.md).
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
		if size == 1<<20 {
			time.Sleep(25 * time.Millisecond)
		}
	}
	_ = f.Sync()
}

// TestMountedOver has another file system mounted over the data directory's path, a full one, while hubcap runs: it goes on in the
// directory that it has open.
func TestMountedOver(t *testing.T) {
	s := newSite(t, begin(t), "HUBCAP_TAG_TTL=1ms")
	dir := newTmpfs(t, "size=200m") + "/data"
	s.start(t, dir)
	s.pullNewTags(t, "before")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		testkit.Unable(t, "mount: %v", err)
	}
	over := true
	t.Cleanup(func() {
		if over {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	fillUp(t, filepath.Join(dir, "filler"))
	held := s.publishMany(10, 1, 4<<20)
	s.hold(t, held...)
	s.pullNewTags(t, "while it is hidden")
	if m := s.box.scrape(); m == nil || m.sum("hubcap_degraded") != 0 {
		t.Error("it is degraded by a file system that it does not use")
	}
	s.box.stop(t)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	over = false
	s.start(t, dir)
	s.hub.Reset()
	s.mustPull(t, held...)
	for _, b := range held {
		if s.crossed(b) > 0 {
			t.Errorf("%s was kept, and is fetched again", b.digest)
		}
	}
	s.assertAccount(t, dir)
}
