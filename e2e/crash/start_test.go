package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/index"
)

// opened is what hubcap logs when it has counted the files.
var opened = regexp.MustCompile(`msg="cache opened" objects=(\d+)`)

// BenchmarkStart starts hubcap on a million blobs and the manifests of 10,000 images, of which 100 are pinned, with 100,000 tags that
// each have a history of 20 digests. The system has the directories in memory. It starts with an index that knows when each blob was
// used and verified, and without any. It prints the time until it is ready, until a held blob was answered, until all files are
// counted and how many a second that is, and the memory that it has then (its own, and pages of files, Badger's tables for the most part,
// that the system can take back) and had at most.
func BenchmarkStart(b *testing.B) {
	const files = 1_000_000
	s := newSite(b, begin(b), "HUBCAP_CACHE_SIZE=64GiB", "HUBCAP_MAX_BLOB=1GiB", "HUBCAP_LOG_LEVEL=debug")
	dir := b.TempDir()
	s.start(b, dir)
	warm := s.publish(1 << 20)
	s.hold(b, warm)
	s.box.stop(b)
	all := litter(b, dir, files)
	images := manifests(b, dir, all)
	remember(b, dir, all, images)
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
				if n := opened.FindSubmatch(s.box.log.Bytes())[1]; string(n) != strconv.Itoa(files+len(images)+1) {
					b.Errorf("%s files were counted", n)
				}
				b.ReportMetric(took.Seconds(), "s-counted")
				b.ReportMetric(files/took.Seconds(), "files/s")
				waitUntil(b, "the manifests are read", func() bool { return bytes.Contains(s.box.log.Bytes(), []byte("all manifests are read")) })
				b.ReportMetric(time.Since(before).Seconds(), "s-read")
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

const images, tags, pinned, layers = 10_000, 100_000, 100, 10

// manifests makes those of images whose layers are among the files.
func manifests(t testing.TB, dir string, files []digest.Digest) (all map[digest.Digest]int64) {
	t.Helper()
	all = make(map[digest.Digest]int64)
	for i := range images {
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: files[len(files)-1-i], Size: 1},
		}
		for j := range layers {
			m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: files[i*layers+j], Size: 1})
		}
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(body)
		if err := os.WriteFile(filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2], d.Encoded()), body, 0o600); err != nil {
			t.Fatal(err)
		}
		all[d] = int64(len(body))
	}
	return all
}

// named has the index know tags with their history, what was pulled and what is
// pinned.
func named(t testing.TB, x *index.Index, all map[digest.Digest]int64) {
	t.Helper()
	now, manifests := time.Now(), slices.Sorted(maps.Keys(all))
	pulled := make(map[index.PullName]*index.Pulled)
	for i := range tags {
		repo, name, d := fmt.Sprintf("team%d/app%d", i%100, i%5000), fmt.Sprintf("v%d", i/5000), manifests[i%len(manifests)]
		tag := index.Tag{Digest: d, MediaType: ocispec.MediaTypeImageManifest, Size: all[d], Confirmed: now, FirstSeen: now, Via: index.ViaPull}
		for j := range 20 {
			tag.Earlier = append(tag.Earlier, index.Earlier{Digest: digest.FromString(fmt.Sprint(i, j)), FirstSeen: now.Unix(), Confirmed: now.Unix(), Via: index.ViaCheck})
		}
		if err := x.PutTag(index.Name{Registry: "docker.io", Repository: repo, Kind: index.KindTag, Name: name}, tag, false); err != nil {
			t.Fatal(err)
		}
		if i < images {
			uses := index.Uses{Last: now.Unix(), Days: []index.DayPulls{{Day: now.Unix() / 86400, Pulls: 3}}}
			pulled[index.PullName{Registry: "docker.io", Repository: repo, Name: name}] = &index.Pulled{Digest: d, Uses: uses, Platforms: map[string]index.Uses{"": uses}}
		}
		if i < pinned {
			if err := x.PutPins(index.PinRecord{PinName: index.PinName{Registry: "docker.io", Repository: repo, Reference: name}, Pin: index.Pin{At: now, Held: d}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for d := range all {
		if err := x.PutMediaType(d, ocispec.MediaTypeImageManifest); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.PutPulled(pulled); err != nil {
		t.Fatal(err)
	}
}

// remember has the index know of the files.
func remember(t testing.TB, dir string, all []digest.Digest, images map[digest.Digest]int64) {
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
	for d, size := range images {
		used[d] = time.Now()
		verified[d] = index.Verified{Signature: 1, Size: size, At: time.Now().Unix()}
	}
	named(t, x, images)
	for _, err := range []error{x.PutUsed(used), x.PutVerified(verified), x.PutTotal(int64(len(all)+len(images)) * 4096)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Log(err) // the first start reads the rest from the log
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
