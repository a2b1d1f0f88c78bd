package crash

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// TestPowerCut cuts the power of the disk in the middle of fills, evictions and writes of the index: what was not synced is gone, in
// whatever order the file system likes. What lies under a final name afterwards is right, what was held before is held still, and
// hubcap starts.
func TestPowerCut(t *testing.T) {
	for _, tc := range []struct {
		kind        string
		size        int64 // xfs has a least
		quick, full int
	}{
		{"ext4", 192 << 20, 8, 1000},
		{"xfs", 320 << 20, 4, 200},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			random := begin(t, "mkfs."+tc.kind, "mount")
			s := newSite(t, random, "HUBCAP_CACHE_SIZE=96MiB", "HUBCAP_MAX_BLOB=24MiB", "HUBCAP_TAG_TTL=1ms")
			d := newDisk(t, tc.kind, tc.size, "")
			s.start(t, d.data())
			d.sync(t) // TestPowerCutAtFirstStart is without
			n, retries := rounds(tc.quick, tc.full), 0
			for round := range n {
				retries += s.powerCut(t, d, round)
				if t.Failed() {
					t.Fatalf("in round %d", round)
				}
				progress(t, round)
			}
			t.Logf("%d cuts, %d starts that a damaged index cost", n, retries)
		})
	}
}

// TestPowerCutAtFirstStart cuts the power when nothing of what a first start writes has had time to reach the disk.
func TestPowerCutAtFirstStart(t *testing.T) {
	random := begin(t, "mkfs.ext4", "mount")
	s := newSite(t, random)
	d := newDisk(t, "ext4", 192<<20, "")
	first := s.publish(1 << 20)
	s.start(t, d.data())
	s.hold(t, first) // its commit writes the directories out
	d.cutPower(t)
	s.box.kill()
	d.remount(t)
	if box, _ := s.supervise(t, d.data(), 3); box == nil {
		t.Fatal("hubcap does not start")
	}
	s.assertAccount(t, d.data())
	s.mustPull(t, first)
}

// powerCut is one round. It returns how many starts did not succeed.
func (s *site) powerCut(t *testing.T, d *disk, round int) (retries int) {
	t.Helper()
	held := s.publish(1 + s.random.IntN(4<<20))
	s.hold(t, held)
	kept := holds(d.data(), held) // or there was no room at that moment: bytes count until their last reader is gone
	if !kept {
		t.Logf("round %d: the blob was not kept", round)
	}
	if round%2 == 0 {
		s.cutTraffic(t, d, round)
	} else {
		d.cutPower(t) // with nothing that would have synced for the blob's sake
		s.box.kill()
	}
	d.remount(t)
	assertNoWrongFiles(t, d.data())
	if kept && !holds(d.data(), held) {
		t.Errorf("%s of %d bytes was held before the power cut, and is no more", held.digest, len(held.content))
	}

	box, tries := s.supervise(t, d.data(), 3)
	if box == nil {
		t.Fatal("hubcap does not start after a power cut")
	}
	s.assertAccount(t, d.data())
	s.hub.Reset()
	s.mustPull(t, held)
	if kept && s.crossed(held) > 0 {
		t.Errorf("%s of %d bytes outlived the power cut, and was fetched", held.digest, len(held.content))
	}
	s.mustPull(t, s.blobs...)
	s.waitAccount(t, d.data())
	s.forget(10)
	return tries - 1
}

// cutTraffic cuts the power at a random moment while clients pull blobs and tags.
func (s *site) cutTraffic(t *testing.T, d *disk, round int) {
	t.Helper()
	tr := s.traffic(3, s.publishMany(8, 1, 4<<20))
	tags := s.pullTags(round)
	time.Sleep(upTo(s.random, 200*time.Millisecond))
	tr.excuse()
	d.cutPower(t)
	s.box.kill()
	tr.end(t)
	tags()
}

// pullTags pulls new tags without pause, which has the index write and sync. It returns what ends that.
func (s *site) pullTags(round int) (end func()) {
	const several = 20
	paths := make(map[string]*blob)
	for i := range several {
		tag := fmt.Sprintf("round-%d-%d", round, i)
		paths["/v2/"+repository+"/manifests/"+tag] = s.tagged(tag)
	}
	ctx, cancel := context.WithCancel(context.Background())
	box, done := s.box, make(chan struct{})
	go func() {
		defer close(done)
		for path, manifest := range paths {
			if ctx.Err() != nil || box.ended() {
				return
			}
			box.getPath(ctx, path, manifest, 0) // what the answer is, other tests judge
		}
	}()
	return func() { cancel(); <-done }
}
