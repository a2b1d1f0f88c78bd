package blobs

import (
	"os"
	"path/filepath"
)

// FileSystem is what a data directory lies on.
type FileSystem struct {
	Space
	Name  string // ext4, nfs, …; empty for one that is not known
	Trait Trait
}

// Trait is what a kind of file system means for a data directory.
type Trait uint8

// The traits.
const (
	Plain   Trait = iota // nothing
	Network              // it is as slow and as often away as the network
	Memory               // it takes memory, and is empty after a reboot
	Layer                // of a container: it is gone with the container
)

// FileSystemOf returns the file system of a data directory, or of its nearest
// parent that exists. It changes nothing, whether another process uses the
// directory or not.
func FileSystemOf(dir string) (FileSystem, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return FileSystem{}, err
	}
	f, err := os.Open(dir)
	for parent := filepath.Dir(dir); os.IsNotExist(err) && parent != dir; parent = filepath.Dir(dir) {
		dir = parent
		f, err = os.Open(dir)
	}
	if err != nil {
		return FileSystem{}, err
	}
	defer func() { _ = f.Close() }()
	space, err := fileSystem(f)
	if err != nil {
		return FileSystem{}, err
	}
	name, trait := kindOf(f)
	return FileSystem{Space: space, Name: name, Trait: trait}, nil
}
