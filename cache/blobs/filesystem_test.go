package blobs

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFileSystemOf shows that a directory that is not there has the file system
// of its parent, and that nothing is made.
func TestFileSystemOf(t *testing.T) {
	dir := t.TempDir()
	of, err := FileSystemOf(dir)
	if err != nil || of.Total <= 0 || of.Free > of.Total {
		t.Fatalf("%+v, %v", of, err)
	}
	missing := filepath.Join(dir, "a", "b")
	below, err := FileSystemOf(missing)
	if err != nil || below.Total != of.Total || below.Name != of.Name {
		t.Errorf("%+v, %v", below, err)
	}
	if _, err := os.Stat(filepath.Dir(missing)); err == nil {
		t.Error("a directory was made")
	}
	if shm, err := FileSystemOf("/dev/shm"); err == nil && shm.Name == "tmpfs" && shm.Trait != Memory {
		t.Errorf("%+v", shm)
	}
}
