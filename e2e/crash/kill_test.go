package crash

import (
	"path/filepath"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// TestKillInMidFill kills hubcap at a random moment of a pull. One data directory goes through all rounds, so that what one of them
// leaves behind would be found in the next ones.
func TestKillInMidFill(t *testing.T) {
	random := begin(t)
	const size, fills = 32 << 20, 100 * time.Millisecond
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=128MiB", "HUBCAP_MAX_BLOB=64MiB")
	s.hub.Set(func(o *fakehub.Options) { o.Bandwidth = size * int64(time.Second/fills) })
	dir := t.TempDir()
	s.start(t, dir)
	before := 0
	n := rounds(15, 1000)
	for round := range n {
		cut := s.publish(size)
		tr := s.traffic(2, []*blob{cut})
		time.Sleep(upTo(random, fills*5/4))
		tr.excuse()
		if !holds(dir, cut) {
			before++
		}
		s.box.kill()
		tr.end(t)
		s.start(t, dir)
		s.assertAccount(t, dir)
		s.mustPull(t, cut, s.blobs[0])
		s.waitAccount(t, dir)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		s.forget(3)
		progress(t, round)
	}
	t.Logf("%d rounds, %d of them killed before the blob was committed", n, before)
}

// TestKillDuringEviction kills hubcap while clients pull more than the cache can hold, so that it evicts all the time.
func TestKillDuringEviction(t *testing.T) {
	random := begin(t)
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=96MiB", "HUBCAP_MAX_BLOB=24MiB")
	blobs := append(s.publishMany(40, 1<<20, 8<<20), s.publishMany(200, 1, 256<<10)...)
	dir := t.TempDir()
	s.start(t, dir)
	evictions := int64(0)
	n := rounds(10, 100)
	for round := range n {
		tr := s.traffic(4, blobs)
		time.Sleep(300*time.Millisecond + upTo(random, 300*time.Millisecond))
		evictions += s.box.scrape().sum("hubcap_evictions_total")
		tr.excuse()
		s.box.kill()
		tr.end(t)
		s.start(t, dir)
		s.assertAccount(t, dir)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		s.hub.Reset()
		progress(t, round)
	}
	s.mustPull(t, blobs...)
	s.waitAccount(t, dir)
	if evictions == 0 {
		t.Error("nothing was evicted, so nothing was tried")
	}
	t.Logf("%d rounds, %d evictions", n, evictions)
}

// TestKillAtStart kills hubcap again and again before it has come up, on a directory that has something to recover.
func TestKillAtStart(t *testing.T) {
	random := begin(t)
	s := newSite(t, random)
	held := s.publishMany(60, 1, 512<<10)
	cut := s.publish(32 << 20)
	dir := t.TempDir()
	s.start(t, dir)
	s.hold(t, held...)
	s.hub.Set(func(o *fakehub.Options) { o.Bandwidth = 32 << 20 })
	tr := s.traffic(1, []*blob{cut})
	waitUntil(t, "the download is on its way", func() bool { return s.crossed(cut) > 1<<20 })
	tr.excuse()
	s.box.kill()
	tr.end(t)

	n := rounds(20, 200)
	for round := range n {
		b := s.spawn(t, dir)
		time.Sleep(upTo(random, 200*time.Millisecond))
		if b.ended() {
			t.Fatalf("round %d: hubcap ended by itself: %v\n%s", round, b.cmd.ProcessState, tail(b.log.Bytes()))
		}
		b.kill()
	}
	s.hub.Set(func(o *fakehub.Options) { o.Bandwidth = 0 })
	s.start(t, dir)
	s.assertAccount(t, dir)
	s.hub.Reset()
	s.mustPull(t, held...)
	for _, b := range held {
		if s.crossed(b) > 0 {
			t.Errorf("%s was held and had to be fetched again", b.digest)
		}
	}
	s.mustPull(t, cut)
	s.waitAccount(t, dir)
	aside, _ := filepath.Glob(filepath.Join(dir, "index.bad-*"))
	t.Logf("%d starts were killed, %d indexes were set aside on the way", n, len(aside))
}
