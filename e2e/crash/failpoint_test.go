package crash

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hubcap/cache/failpoint"
	"hubcap/e2e/testkit"
)

// TestFailpoints kills hubcap between each two steps of a commit, a save, a removal, a snapshot, and of setting an index aside and
// making a new one, and starts it again. One data directory goes through all of it, but for what a first start does.
func TestFailpoints(t *testing.T) {
	takesLong(t)
	random := begin(t)
	s := newSite(t, random, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MAX_BLOB=32MiB", "HUBCAP_TAG_TTL=1d")
	armed := filepath.Join(t.TempDir(), "hubcap")
	if err := testkit.Build(root, armed, "-tags", "failpoint"); err != nil {
		t.Fatal(err)
	}
	held := s.tagged("held")
	dir := t.TempDir()
	pinned := s.pin(t, dir)
	s.mustPullTag(t, "held", held)
	s.box.stop(t)

	n, points := rounds(1, 100), failpoint.All
	for round := range n {
		for _, point := range points {
			at, times := dir, 1
			switch phase, _, _ := strings.Cut(string(point), "."); phase {
			case "layout":
				at = t.TempDir()
			case "aside":
				found := os.WriteFile(filepath.Join(dir, "index.damaged"), nil, 0o600)
				if found != nil {
					t.Fatal(found)
				}
			case "restore":
				remove(t, filepath.Join(dir, "index"))
			case "snapshot": // it comes once
			default:
				times += random.IntN(2)
			}
			s.crashAt(t, armed, at, fmt.Sprintf("%s:%d", point, times))
			s.start(t, at)
			s.assertAccount(t, at)
			if at == dir {
				s.hub.Down()
				s.mustPullTag(t, "held", held)
				s.mustPull(t, pinned...)
				s.hub.Up()
			}
			s.mustPull(t, s.blobs...)
			s.waitAccount(t, at)
			s.box.stop(t)
			if t.Failed() {
				t.Fatalf("at %s, in round %d", point, round)
			}
		}
		s.hub.Reset()
		progress(t, round)
	}
	t.Logf("%d rounds of %d points", n, len(points))
}

// crashAt has hubcap do everything until it dies at a point.
func (s *site) crashAt(t *testing.T, armed, dir, point string) {
	t.Helper()
	plain, settings := s.binary, s.extra
	s.binary, s.extra = armed, append([]string{"CRASH_AT=" + point}, settings...)
	defer func() { s.binary, s.extra = plain, settings }()
	s.forget(0)
	big := s.publishMany(3, 17<<20, 20<<20) // what is above 16 MiB is noted on the way
	s.publishMany(10, 1, 64<<10)            // far from what would push the tag out

	b := s.spawn(t, dir)
	t.Cleanup(b.kill)
	waitUntil(t, "hubcap listens or dies", func() bool { return b.ended() || b.listens() })
	s.box = b
	for tag := 0; tag < 3 && !b.ended(); tag++ {
		name := fmt.Sprint(time.Now().UnixNano())
		b.getPath(t.Context(), manifestPath(name), s.tagged(name), 0)
		for _, one := range append(big, s.blobs...) {
			if !b.ended() {
				b.get(t.Context(), one, 0)
			}
		}
	}
	if !b.ended() { // what is done at the end
		_ = b.cmd.Process.Signal(syscall.SIGTERM)
		waitUntil(t, "hubcap ends", b.ended)
	}
	if state := b.cmd.ProcessState.Sys().(syscall.WaitStatus); !state.Signaled() || state.Signal() != syscall.SIGKILL {
		t.Errorf("%s was never reached: %v\n%s", point, b.cmd.ProcessState, tail(b.log.Bytes()))
	}
}

func manifestPath(tag string) string { return "/v2/" + repository + "/manifests/" + tag }

// mustPullTag pulls a manifest by its tag.
func (s *site) mustPullTag(t *testing.T, tag string, want *blob) {
	t.Helper()
	if got := s.box.getPath(t.Context(), manifestPath(tag), want, 0); got.err != nil || got.wrong {
		t.Errorf("the tag %s does not come: %v, wrong %v", tag, got.err, got.wrong)
	}
}

// TestNoFailpointsInRelease looks for their names in the binary that everybody gets.
func TestNoFailpointsInRelease(t *testing.T) {
	begin(t)
	content, err := os.ReadFile(testkit.Hubcap(t, root))
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range append([]failpoint.Point{"CRASH_AT"}, failpoint.All...) {
		if bytes.Contains(content, []byte(point)) {
			t.Errorf("%q is in it", point)
		}
	}
}
