//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hubcap/e2e/testkit"
	"hubcap/eviction"
)

// inode distinguishes files of the same name.
func inode(t *testing.T, name string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(name, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

func (r *rig) wantDegraded(reasons ...string) {
	r.t.Helper()
	r.lookAtDisk()
	if got := r.Degraded(); !slices.Equal(got, reasons) {
		r.t.Errorf("degraded %v, want %v", got, reasons)
	}
}

// TestUnreadableFileStays requests a blob whose file cannot be opened while its source
// does not answer: the file stays, and is served once it can be read again.
func TestUnreadableFileStays(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(700, 3*mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	mend := testkit.Unopenable(t, r.file(d))
	before := inode(t, r.file(d))
	for range 3 {
		if _, _, err := r.get(d, down(), 0, -1); !errors.Is(err, ErrSource) {
			t.Errorf("%v, want the source's error", err)
		}
		if r.Has(Want{Digest: d}) {
			t.Error("it counts as held, and cannot be read")
		}
		if _, ok, err := r.Held(Want{Digest: d}); ok || err != nil {
			t.Errorf("held: %v, %v", ok, err)
		}
	}
	r.reread()
	r.wantDegraded("reads")
	r.wantChecks(0, 0, 1)
	r.checkLedger()
	mend()
	if from := r.mustGet(d, down(), body); from != Held || inode(t, r.file(d)) != before {
		t.Errorf("afterwards it comes from %d", from)
	}
	r.reread()
	r.wantDegraded()
	if !r.Has(Want{Digest: d}) {
		t.Error("it does not count as held again")
	}
}

// TestUnreadableFileIsReplaced requests a blob whose file cannot be opened while its
// source answers: one transfer serves all readers and replaces the file. A transfer
// that fails leaves the file as it is.
func TestUnreadableFileIsReplaced(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(701, 12*mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	mend := testkit.Unopenable(t, r.file(d))
	before := inode(t, r.file(d))

	wrong := bytes.Clone(body)
	wrong[mib] ^= 1
	if _, _, err := r.get(d, &origin{body: wrong}, 0, -1); !errors.Is(err, ErrWrongContent) {
		t.Errorf("wrong bytes in its place: %v", err)
	}
	r.settle()
	breaks := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(in, mib), errReader{permanent{ErrSource}}), nil
	}}
	if _, _, err := r.get(d, breaks, 0, -1); !errors.Is(err, ErrSource) {
		t.Errorf("a source that breaks: %v", err)
	}
	r.checkLedger()
	r.wantDegraded("reads")
	if inode(t, r.file(d)) != before {
		t.Error("the file was removed for nothing")
	}

	src := newMeter(body, 0, nil)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if got, _, err := r.get(d, src, 0, -1); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	r.checkLedger()
	if n := src.given.Load(); n != int64(len(body)) {
		t.Errorf("the source gave %d bytes of %d", n, len(body))
	}
	if from := r.mustGet(d, down(), body); from != Held || inode(t, r.file(d)) == before {
		t.Errorf("afterwards it comes from %d", from)
	}
	r.wantDegraded()
	mend()
}

// TestReplacedMeanwhile has a request find that a file cannot be opened, and look
// for the blob again only after the file was replaced.
func TestReplacedMeanwhile(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(704, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	mend := testkit.Unopenable(t, r.file(d))
	defer mend()

	replaced := r.unread.replaced.Load()
	want := Want{Digest: d, Source: down(), Size: -1}
	_, missing := r.held(want)
	if !errors.Is(missing, errUnreadable) {
		t.Fatalf("the file fails with %v", missing)
	}
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	b, err := r.openMissing(t.Context(), want, missing, replaced)
	if err != nil || b.Origin != Held {
		t.Fatalf("%+v, %v", b, err)
	}
	b.Close()
}

// TestFileThatFailsUnderItsReaderIsReplaced has the disk fail in the middle of a
// response while another reader has the same file open: its bytes count until that
// reader has closed it.
func TestFileThatFailsUnderItsReaderIsReplaced(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(702, 3*mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	open := func() *Blob {
		b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
		if err != nil || b.Origin != Held {
			t.Fatalf("%+v, %v", b, err)
		}
		return b
	}
	other, b := open(), open()
	file := b.body.(*held).file
	c := &breakAt{at: mib, do: func() { file.Close() }}
	if err := b.Send(context.Background(), c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	r.settle()
	if s := r.o.Ledger.Status(); s.Evicted != 3*mib || s.Segments[eviction.Large].Bytes != 3*mib {
		t.Errorf("%+v; want the file that is read and the one in its place", s)
	}
	b.Close()
	r.mustSend(opening{b: other}, body) // and closes it
	r.checkLedger()
	if n := src.opens.Load(); n != 2 {
		t.Errorf("the source was opened %d times", n)
	}
	// The file in its place is removed like any other, and its bytes are free.
	r.o.Ledger.Evict(d)
	r.Remove(d)
	r.checkLedger()
}

// TestScrubberLeavesWhatItCannotRead has the whole disk fail, and later only a few files:
// nothing is removed, and the others are verified.
func TestScrubberLeavesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	r, now := atRest(t, t.TempDir())
	var all []digest.Digest
	for i := range 12 {
		body, d := randomContent(uint64(710+i), 50_000)
		r.mustGet(d, &origin{body: body}, body)
		all = append(all, d)
	}
	r.settle()
	now.Add(int64(13 * time.Hour))
	var mend []func()
	for _, d := range all {
		mend = append(mend, testkit.Unopenable(t, r.file(d)))
	}
	if r.scrubRound(t.Context()) {
		t.Error("the scrubber continues at once")
	}
	r.wantChecks(0, 0, fewUnread)
	r.wantDegraded("reads")
	r.reread()
	r.wantChecks(0, 0, fewUnread)
	for _, one := range mend[fewUnread-1:] {
		one()
	}
	// All but two can be read again. Those two are tried first and delay no other.
	for _, d := range all[:fewUnread-1] {
		_ = r.unreadable(d, 0, unix.EIO)
	}
	r.reread()
	r.scrubRound(t.Context())
	if n := r.checks("right"); n != len(all)-fewUnread+1 {
		t.Errorf("%d files verified", n)
	}
	for _, one := range mend {
		one()
	}
	r.reread()
	r.scrubRound(t.Context())
	if n := r.checks("right"); n != len(all) {
		t.Errorf("%d files verified at last, want all", n)
	}
	r.wantDegraded()
	r.checkLedger()
}

// TestUnreadableManifestStays is TestUnreadableFileStays for a manifest.
func TestUnreadableManifestStays(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body := []byte(`{"schemaVersion":2,"mediaType":"m"}`)
	one := Manifest{Digest: digest.FromBytes(body), MediaType: "m", Body: body}
	put := func() {
		stored := make(chan struct{})
		r.PutManifest(one, func() { close(stored) })
		<-stored
	}
	put()
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	mend := testkit.Unopenable(t, r.file(one.Digest))
	before := inode(t, r.file(one.Digest))
	if _, ok := r.Manifest(one.Digest); ok {
		t.Error("it was read")
	}
	r.wantDegraded("reads")
	r.checkLedger()
	mend()
	if got, ok := r.Manifest(one.Digest); !ok || !bytes.Equal(got.Body, body) || inode(t, r.file(one.Digest)) != before {
		t.Errorf("afterwards: %v, %v", got, ok)
	}
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	testkit.Unopenable(t, r.file(one.Digest))
	if _, ok := r.Manifest(one.Digest); ok {
		t.Error("it was read")
	}
	put()
	r.wantDegraded()
	r.checkLedger()
	if inode(t, r.file(one.Digest)) == before {
		t.Error("what came anew did not take its place")
	}
}

// TestUnreadablePartialStays has a partial file, or its note, be unreadable at the start
// or when it is to be continued, while the source does not answer. Afterwards the
// fill continues where it ended.
func TestUnreadablePartialStays(t *testing.T) {
	body, d := randomContent(703, partialSize)
	for _, suffix := range []string{"", ".note"} {
		for _, restart := range []bool{false, true} {
			t.Run("file"+suffix+map[bool]string{true: ", at the start"}[restart], func(t *testing.T) {
				dir := t.TempDir()
				r := newRig(t, rigOptions{dir: dir})
				r.leave(d, body)
				counted := r.o.Ledger.Status().Partial
				name := filepath.Join(dir, "partial", "sha256-"+d.Encoded())
				if restart {
					r.stop()
				}
				mend := testkit.Unopenable(t, name+suffix)
				if restart {
					r = newRig(t, rigOptions{dir: dir})
				}
				if _, _, err := r.get(d, down(), 0, -1); !errors.Is(err, ErrSource) {
					t.Errorf("%v, want the source's error", err)
				}
				if s := r.o.Ledger.Status(); s.Partial < counted || s.Reserved != 0 {
					t.Errorf("%+v, want %d bytes or some more of a partial download", s, counted)
				}
				mend()
				src := &origin{body: body}
				r.mustGet(d, src, body)
				if !bytes.Contains(r.log.Bytes(), []byte("a partial fill is continued")) {
					t.Errorf("it began again:\n%s", r.log)
				}
				r.checkLedger()
			})
		}
		t.Run("file"+suffix+", replaced", func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.leave(d, body)
			testkit.Unopenable(t, filepath.Join(r.dir, "partial", "sha256-"+d.Encoded()+suffix))
			r.mustGet(d, &origin{body: body}, body)
			r.checkLedger()
			if from := r.mustGet(d, down(), body); from != Held {
				t.Errorf("origin %d", from)
			}
		})
	}
}

// TestWalkThatCannotSeeADirectory starts while a directory cannot be read: its blobs are
// found when they are requested.
func TestWalkThatCannotSeeADirectory(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(704, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	r.stop()
	at := filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2])
	if err := os.Rename(at, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{dir: dir})
	r.unseen.Store(true) // as ErrUnseen has it
	r.wantDegraded("reads")
	if err := os.Rename(filepath.Join(dir, "away"), at); err != nil {
		t.Fatal(err)
	}
	if from := r.mustGet(d, down(), body); from != Held {
		t.Errorf("origin %d", from)
	}
	r.checkLedger()
}

// TestDirectoryThatIsMoved shows that the directory that was opened at the start counts,
// and not what its path names now.
func TestDirectoryThatIsMoved(t *testing.T) {
	r := newRig(t, rigOptions{dir: filepath.Join(t.TempDir(), "data")})
	if err := os.Rename(r.dir, r.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	r.wantDegraded()
	if err := os.Rename(r.dir+"-away", r.dir); err != nil {
		t.Fatal(err)
	}
	r.wantDegraded()
}
