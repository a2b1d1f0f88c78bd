package crash

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hubcap/cache/index"
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
	n := rounds(8, 1000)
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
	takesLong(t)
	random := begin(t)
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=96MiB", "HUBCAP_MAX_BLOB=24MiB")
	blobs := append(s.publishMany(40, 1<<20, 8<<20), s.publishMany(200, 1, 256<<10)...)
	dir := t.TempDir()
	s.start(t, dir)
	evictions := int64(0)
	n := rounds(5, 100)
	for round := range n {
		tr := s.traffic(4, blobs)
		waitUntil(t, "hubcap evicts", func() bool { return s.box.scrape().sum("hubcap_evictions_total") > 0 })
		time.Sleep(upTo(random, 300*time.Millisecond))
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

// TestKillDuringRestore loses the index of a box that knows many tags, and kills hubcap, several times in a row, while it makes a new one
// of the snapshot. The index that comes of it in the end has every tag, and so has the next snapshot.
func TestKillDuringRestore(t *testing.T) {
	takesLong(t)
	random := begin(t)
	s := newSite(t, random)
	dir := t.TempDir()
	s.start(t, dir)
	s.mustPullTag(t, "held", s.tagged("held"))
	s.box.stop(t)
	tags := max(10_000, rounds(10_000, 50_000))
	want := openIndex(t, dir)
	for i := range tags {
		err := want.PutTag(tagName(i), index.Tag{Digest: s.hub.AddBlob(repository, []byte("any")), Size: 3, Confirmed: time.Now()}, false)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := want.Close(); err != nil {
		t.Fatal(err)
	}

	lost := filepath.Join(dir, "index")
	remove(t, lost)
	begun := time.Now()
	s.start(t, dir)
	takes := time.Since(begun)
	n, half := rounds(4, 100), 0
	for round := 0; round < n || half == 0 && round < 10*n; round++ {
		s.box.kill()
		remove(t, lost)
		for range 1 + random.IntN(3) {
			b := s.spawn(t, dir)
			time.Sleep(upTo(random, takes))
			if b.ended() {
				t.Fatalf("round %d: hubcap ended by itself: %v\n%s", round, b.cmd.ProcessState, tail(b.log.Bytes()))
			}
			b.kill()
			if _, err := os.Stat(lost + ".new"); err == nil {
				half++
			}
		}
		s.start(t, dir)
		more := fmt.Sprint("round-", round)
		s.mustPullTag(t, more, s.tagged(more))
		s.box.stop(t)
		assertTags(t, dir, tags)
		s.start(t, dir)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		progress(t, round)
	}
	if half == 0 {
		t.Error("hubcap was never killed in the middle of it")
	}
	t.Logf("%d rounds, %d kills in the middle of restoring, which takes %v with the start", n, half, takes)
}

func tagName(i int) index.Name {
	return index.Name{Registry: "docker.io", Repository: "library/many", Kind: index.KindTag, Name: fmt.Sprint(i)}
}

// openIndex opens the index of a data directory that no hubcap runs on.
func openIndex(t *testing.T, dir string) *index.Index {
	t.Helper()
	x, err := index.Open(index.Options{Dir: dir, Room: func() (int64, error) { return 1 << 40, nil }, Interval: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// assertTags looks for each tag in the index, where the snapshot cannot help out, and for as many lines in the snapshot.
func assertTags(t *testing.T, dir string, tags int) {
	t.Helper()
	snapshot := filepath.Join(dir, "snapshot")
	content, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(content, []byte("\n")); lines <= tags {
		t.Errorf("the snapshot has %d lines, want more than %d", lines, tags)
	}
	remove(t, snapshot)
	x := openIndex(t, dir)
	missing := 0
	for i := range tags {
		if _, known, err := x.Tag(tagName(i)); err != nil || !known {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d tags are missing", missing, tags)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(snapshot, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
