//go:build linux

package blobs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// TestOpenOfAFIFO shows that a FIFO in a blob's place does not block a request.
func TestOpenOfAFIFO(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := put(t, s, "content")
	name := filepath.Join(dir, blobPath(d, Public))
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Skipf("no FIFOs here: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		f, _, err := s.Open(d, Public)
		if err == nil {
			f.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it was opened as a blob")
		}
	case <-time.After(testkit.Patience):
		t.Error("Open hangs for ever")
		w, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		<-done
		w.Close()
	}
}

// TestDirectoryInTheBlobsPlace has a directory where a blob should be.
func TestDirectoryInTheBlobsPlace(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := digest.FromString("content")
	if err := os.MkdirAll(filepath.Join(dir, blobPath(d, Public), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The walk at the start removes what is not a blob.
	if err := s.Walk(func(digest.Digest, Class, int64, time.Time) error { return nil }); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(7, Public); err != nil {
		t.Errorf("this blob can never be kept: %v", err)
	}
}

// TestFileInTheDirectorysPlace has a file where one of the 256 directories should be.
func TestFileInTheDirectorysPlace(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := digest.FromString("content")
	if err := os.WriteFile(filepath.Join(dir, filepath.Dir(blobPath(d, Public))), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Walk(func(digest.Digest, Class, int64, time.Time) error { return nil }); err != nil {
		t.Fatal(err)
	}
	put(t, s, "content")
}
