//go:build linux

package cache

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

func path(r *rig, d digest.Digest) string {
	return filepath.Join(r.dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
}

// unremovable makes the removal of a blob's file fail until restore is called.
func unremovable(t *testing.T, r *rig, d digest.Digest) (restore func()) {
	t.Helper()
	name := path(r, d)
	if err := syscall.Mount(name, name, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("mounting is not permitted here: %v", err)
	}
	undone := false
	restore = func() {
		if !undone {
			undone = true
			if err := syscall.Unmount(name, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(restore)
	return restore
}

// TestUnlinkFailsForAWhile has an evicted file that cannot be unlinked for a while.
func TestUnlinkFailsForAWhile(t *testing.T) {
	r := newRig(t, rigOptions{limit: 16 * mib})
	body, d := randomContent(209, 4*mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	restore := unremovable(t, r, d)
	r.o.Ledger.Evict(d)
	r.Remove(d)
	if s := r.o.Ledger.Status(); s.Evicted == 0 {
		t.Fatal("it was removed after all")
	}
	restore()
	// Room is wanted; the evicted bytes are in the way.
	if err := r.janitor.Reserve(13 * mib); err != nil {
		t.Errorf("the evicted bytes are never given back: %v", err)
	} else {
		r.o.Ledger.Release(13 * mib)
	}
	r.checkLedger()
}

// TestUnlinkFailsThenRefill is the same, with the blob filled again meanwhile.
func TestUnlinkFailsThenRefill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(210, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	restore := unremovable(t, r, d)
	r.o.Ledger.Evict(d)
	r.Remove(d)
	open := make(chan struct{})
	src := &origin{body: body, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
		if n == 1 {
			in = gate{in, open}
		}
		return in, nil
	}}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	restore()
	close(open)
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	b.Close()
	r.settle()
	if held, ok := r.o.Ledger.Touch(d); ok {
		if _, err := os.Lstat(path(r, d)); err != nil {
			t.Errorf("the ledger holds %d bytes of a file that was removed: %v", held, err)
		}
	}
	r.Remove(d) // the janitor's next try, if the old file is still there
	r.checkLedger()
}

// TestLastUseOfWhatIsGone has a blob used at the moment of its eviction: the index
// keeps no record of it.
func TestLastUseOfWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(231, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	r.o.Ledger.Evict(d)
	r.Remove(d)
	r.usage.touch(d) // Held, between the ledger's answer and its own note
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	left := 0
	if err := r.o.Index.Used("", func(digest.Digest, time.Time) { left++ }); err != nil || left != 0 {
		t.Errorf("%d records of files that are not there, %v", left, err)
	}
}

// TestManifestWithoutRoomInTheIndex shows that a manifest for which there is no room
// leaves nothing in the index.
func TestManifestWithoutRoomInTheIndex(t *testing.T) {
	r := newRig(t, rigOptions{limit: 4 * kib})
	body, d := randomContent(232, 8*kib)
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: body}, func() { t.Error("stored") })
	r.Close() // waits for it
	if mediaType, err := r.o.Index.MediaType(d); err != nil || mediaType != "" {
		t.Errorf("media type %q of what is not there, %v", mediaType, err)
	}
}

// TestIndexIsGoneAndItsTriesAreNot starts after the process has died between setting
// an index aside and clearing its tries, and after the directory was removed by hand.
func TestIndexIsGoneAndItsTriesAreNot(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.opening"), []byte(".."), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(index.Options{
		Dir: dir, Room: func() (int64, error) { return 1 << 40, nil }, Interval: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("it will never start again: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}
