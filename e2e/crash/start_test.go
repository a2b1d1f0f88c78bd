package crash

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// opened is what hubcap logs when it has counted the files.
var opened = regexp.MustCompile(`msg="cache opened" objects=(\d+)`)

// BenchmarkStart starts hubcap on a million blobs whose directories the system has in memory: with an index that knows when each was
// used and verified, and without any. It prints the time until it is ready, until a held blob was answered, until all files are
// counted and how many a second that is, and the memory that it has then (its own, and pages of files, Badger's tables for the most part,
// that the system can take back) and had at most.
func BenchmarkStart(b *testing.B) {
	const files = 1_000_000
	s := newSite(b, begin(b), "HUBCAP_CACHE_SIZE=64GiB", "HUBCAP_MAX_BLOB=1GiB")
	dir := b.TempDir()
	s.start(b, dir)
	warm := s.publish(1 << 20)
	s.hold(b, warm)
	s.box.stop(b)
	all := litter(b, dir, files)
	remember(b, dir, all)
	for _, indexed := range []bool{true, false} {
		b.Run(fmt.Sprintf("index=%v", indexed), func(b *testing.B) {
			for b.Loop() {
				if !indexed {
					if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
						b.Fatal(err)
					}
				}
				before := time.Now()
				s.start(b, dir)
				b.ReportMetric(s.box.ready.Sub(before).Seconds(), "s-ready")
				s.hub.Reset()
				s.mustPull(b, warm)
				b.ReportMetric(time.Since(before).Seconds(), "s-answer")
				if s.crossed(warm) > 0 {
					b.Error("what is held was fetched")
				}
				waitUntil(b, "the files are counted", func() bool { return opened.Match(s.box.log.Bytes()) })
				took := time.Since(before)
				if n := opened.FindSubmatch(s.box.log.Bytes())[1]; string(n) != strconv.Itoa(files+1) {
					b.Errorf("%s files were counted", n)
				}
				b.ReportMetric(took.Seconds(), "s-counted")
				b.ReportMetric(files/took.Seconds(), "files/s")
				b.ReportMetric(s.box.memory(b, "VmRSS"), "MiB")
				b.ReportMetric(s.box.memory(b, "RssAnon"), "MiB-own")
				b.ReportMetric(s.box.memory(b, "RssFile"), "MiB-mapped")
				b.ReportMetric(s.box.memory(b, "VmHWM"), "MiB-most")
				s.box.stop(b)
			}
		})
	}
}

// litter makes files as hubcap does.
func litter(t testing.TB, dir string, n int) (all []digest.Digest) {
	t.Helper()
	for i := range n {
		d := digest.FromString(strconv.Itoa(i))
		in := filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2])
		if i < 20_000 {
			if err := os.MkdirAll(in, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(in, d.Encoded()), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// remember has the index know of the files.
func remember(t testing.TB, dir string, all []digest.Digest) {
	t.Helper()
	x, err := index.Open(index.Options{Dir: dir, Interval: time.Hour, Log: slog.New(slog.DiscardHandler), Room: func() (int64, error) { return 1 << 40, nil }})
	if err != nil {
		t.Fatal(err)
	}
	used, verified := make(map[digest.Digest]time.Time), make(map[digest.Digest]index.Verified)
	for _, d := range all {
		used[d] = time.Now()
		verified[d] = index.Verified{Signature: 1, Size: 1, At: time.Now().Unix()}
	}
	for _, err := range []error{x.PutUsed(used), x.PutVerified(verified), x.PutTotal(int64(len(all)) * 4096), x.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// memory is a figure of the process's status, in MiB.
func (b *box) memory(t testing.TB, name string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
	if at == nil {
		t.Fatalf("%s is not known", name)
	}
	kib, err := strconv.ParseFloat(string(at[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}
