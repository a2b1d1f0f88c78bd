package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// atRest is a rig with a clock that the test sets.
func atRest(t *testing.T, dir string) (*rig, *atomic.Int64) {
	t.Helper()
	now := new(atomic.Int64)
	now.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	r := newRig(t, rigOptions{dir: dir, change: func(o *Options) {
		o.VerifyInterval = 24 * time.Hour
		o.Now = func() time.Time { return time.Unix(0, now.Load()) }
	}})
	return r, now
}

func (r *rig) file(d digest.Digest) string {
	return filepath.Join(r.dir, "blobs", "open", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// rot changes one byte of the file of d, and sets its time back.
func (r *rig) rot(d digest.Digest, at int64) {
	r.t.Helper()
	name := r.file(d)
	info, err := os.Stat(name)
	if err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	one := make([]byte, 1)
	_, err = f.ReadAt(one, at)
	one[0] ^= 0x10
	_, err2 := f.WriteAt(one, at)
	if err := errors.Join(err, err2, os.Chtimes(name, info.ModTime(), info.ModTime())); err != nil {
		r.t.Fatal(err)
	}
}

// checks returns how many verifications had a result. It waits for those that run: one
// has its result a moment before it ends, and whoever comes then joins it.
func (r *rig) checks(result string) int {
	eventually(r.t, "no verification runs", func() bool {
		r.trust.mu.Lock()
		defer r.trust.mu.Unlock()
		return len(r.trust.running) == 0
	})
	n, _ := r.o.Metrics.Value("hubcap_verifications_total", "result", result)
	return int(n)
}

func (r *rig) wantChecks(right, wrong, unreadable int) {
	r.t.Helper()
	got := []int{r.checks("right"), r.checks("wrong"), r.checks("unreadable")}
	if want := []int{right, wrong, unreadable}; fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("results right, wrong, unreadable: %v, want %v", got, want)
	}
}

// TestRotIsNeverServedAndHeals shows that no client gets a whole body with a byte that
// has changed on disk, however it requests it, and that the next client gets the
// right one.
func TestRotIsNeverServedAndHeals(t *testing.T) {
	for _, size := range []int64{1, tail, 3*mib + 1} {
		for _, at := range []int64{0, size / 2, size - 1} {
			for _, suffix := range []int64{size, 1} { // the whole, and a range to the end
				t.Run(fmt.Sprintf("%d bytes, the one at %d, the last %d asked for", size, at, suffix), func(t *testing.T) {
					r, _ := atRest(t, t.TempDir())
					body, d := randomContent(400, int(size))
					src := &origin{body: body}
					r.mustGet(d, src, body)
					r.settle()
					r.rot(d, at)
					if got, _, err := r.get(d, src, size-suffix, suffix); !errors.Is(err, ErrWrongContent) || int64(len(got)) >= suffix {
						t.Errorf("%d bytes of %d, %v", len(got), suffix, err)
					}
					r.wantChecks(0, 1, 0)
					if from := r.mustGet(d, src, body); from != Filling {
						t.Errorf("origin %d", from)
					}
					if n := src.opens.Load(); n != 2 {
						t.Errorf("source opened %d times", n)
					}
					r.checkLedger()
				})
			}
		}
	}
}

// openHeld opens a stored blob.
func (r *rig) openHeld(d digest.Digest, src Source) *Blob {
	r.t.Helper()
	b, err := r.Open(r.t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil || b.Origin != Held {
		r.t.Fatalf("%+v, %v", b, err)
	}
	return b
}

// TestVerifiedFileIsTrusted shows that a file is hashed once the verify interval has
// passed and not before, once for all readers, and after a restart only if the record
// of its verification was lost.
func TestVerifiedFileIsTrusted(t *testing.T) {
	dir := t.TempDir()
	r, now := atRest(t, dir)
	body, d := randomContent(401, 3*mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	r.mustGet(d, src, body)
	r.wantChecks(0, 0, 0)

	now.Add(int64(25 * time.Hour))
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if got, from, err := r.get(d, src, 0, -1); err != nil || from != Held || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, origin %d, %v", len(got), from, err)
			}
		})
	}
	all.Wait()
	r.wantChecks(1, 0, 0)

	now.Add(int64(25 * time.Hour))
	early, late := r.openHeld(d, src), r.openHeld(d, src)
	r.mustSend(opening{b: early}, body)
	r.mustSend(opening{b: late}, body) // it was opened before the file was verified, and is read after that
	r.wantChecks(2, 0, 0)
	before := r.checks("right")
	r.mustGet(d, src, body)
	now.Add(-int64(325 * time.Hour)) // the clock is set back
	r.mustGet(d, src, body)
	if n := r.checks("right") - before; n != 1 {
		t.Errorf("%d verifications after the clock was set back, want 1", n)
	}
	r.stop()

	r, now = atRest(t, dir)
	now.Add(-int64(275 * time.Hour))
	r.mustGet(d, src, body)
	r.wantChecks(0, 0, 0)
	r.stop()

	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	r, _ = atRest(t, dir)
	if from := r.mustGet(d, src, body); from != Held {
		t.Errorf("origin %d", from)
	}
	r.mustGet(d, src, body)
	r.wantChecks(1, 0, 0)
	if n := src.opens.Load(); n != 1 {
		t.Errorf("source opened %d times", n)
	}
}

// TestRangeIsServedAndVerifiedBehind shows that a range that ends before the blob is
// served at once, and the file verified in the background.
func TestRangeIsServedAndVerifiedBehind(t *testing.T) {
	r, now := atRest(t, t.TempDir())
	body, d := randomContent(402, 3*mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	now.Add(int64(25 * time.Hour))
	if got, _, err := r.get(d, src, 1000, mib); err != nil || !bytes.Equal(got, body[1000:1000+mib]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	eventually(t, "the file is verified", func() bool { return r.checks("right") == 1 })

	r.rot(d, 2*mib)
	if _, _, err := r.get(d, src, 1000, mib); err != nil { // not in the range that is wrong
		t.Error(err)
	}
	eventually(t, "the file is found wrong", func() bool { return r.checks("wrong") == 1 })
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !b.RecentlyWrong || b.Origin == Held {
		t.Errorf("recently wrong %v, origin %d", b.RecentlyWrong, b.Origin)
	}
}

// TestWhatStandsInABlobsPlaceIsReplaced shows that what was put in a blob's place by
// hand is replaced within the response.
func TestWhatStandsInABlobsPlaceIsReplaced(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	body, d := randomContent(403, mib)
	if err := os.WriteFile(elsewhere, body, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(string) error{
		"nothing":            func(string) error { return nil },
		"a directory":        func(name string) error { return os.MkdirAll(filepath.Join(name, "x"), 0o700) },
		"a link to the same": func(name string) error { return os.Symlink(elsewhere, name) },
		"a shorter file":     func(name string) error { return os.WriteFile(name, body[:1000], 0o600) },
		"a longer file":      func(name string) error { return os.WriteFile(name, append(bytes.Clone(body), 0), 0o600) },
		"an empty file":      func(name string) error { return os.WriteFile(name, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := atRest(t, t.TempDir())
			src := &origin{body: body}
			r.mustGet(d, src, body)
			r.settle()
			if err := errors.Join(os.Remove(r.file(d)), put(r.file(d))); err != nil {
				t.Fatal(err)
			}
			if from := r.mustGet(d, src, body); from != Filling {
				t.Errorf("origin %d", from)
			}
			r.checkLedger()
			if from := r.mustGet(d, src, body); from != Held {
				t.Errorf("then origin %d", from)
			}
			r.wantChecks(0, 0, 1)
		})
	}
}

// TestScrubberFindsRot shows that the scrubber verifies what was not verified for half an
// interval, and removes what is wrong.
func TestScrubberFindsRot(t *testing.T) {
	t.Parallel()
	r, now := atRest(t, t.TempDir())
	var digests []digest.Digest
	var bodies [][]byte
	for i := range 10 {
		body, d := randomContent(uint64(410+i), 50_000+i)
		r.mustGet(d, &origin{body: body}, body)
		digests, bodies = append(digests, d), append(bodies, body)
	}
	r.settle()
	r.scrubRound(t.Context())
	r.wantChecks(0, 0, 0)
	now.Add(int64(13 * time.Hour))
	r.rot(digests[3], 7)
	if err := os.Remove(r.file(digests[5])); err != nil {
		t.Fatal(err)
	}
	r.scrubRound(t.Context())
	r.wantChecks(8, 1, 1)
	if n, _ := r.o.Metrics.Value("hubcap_scrub_round_start_timestamp_seconds"); n != float64(r.o.Now().Unix()) {
		t.Errorf("the round began at %v", n)
	}
	if s := r.Status().Scrub; s.Verified != 8 {
		t.Errorf("%+v", s)
	}
	r.scrubRound(t.Context())
	r.wantChecks(8, 1, 1)
	if n, _ := r.o.Metrics.Value("hubcap_scrubbed_bytes_total"); n < 9*50_000 {
		t.Errorf("%v bytes scrubbed", n)
	}
	if s := r.Status().Scrub; s.Due != 0 || s.Bytes < 9*50_000 || !s.Ended.Equal(r.o.Now()) {
		t.Errorf("%+v", s)
	}
	r.checkLedger()
	for i, d := range digests {
		want := Held
		if i == 3 || i == 5 {
			want = Filling
		}
		if from := r.mustGet(d, &origin{body: bodies[i]}, bodies[i]); from != want {
			t.Errorf("blob %d: origin %d, want %d", i, from, want)
		}
	}
}

// TestEvictedFileIsVerifiedByItsReader shows that a reader verifies a file that was
// evicted before its verification.
func TestEvictedFileIsVerifiedByItsReader(t *testing.T) {
	r, now := atRest(t, t.TempDir())
	body, d := randomContent(430, mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	now.Add(int64(25 * time.Hour))
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r.o.Ledger.Evict(d)
	r.Remove(d)
	var c client
	if err := b.Send(context.Background(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	if n := src.opens.Load(); n != 1 {
		t.Errorf("source opened %d times", n)
	}
}
