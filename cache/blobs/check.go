package blobs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Check returns the error with which Open would refuse dir, as far as that is
// known without creating or locking anything: not whether another process uses
// it.
func Check(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = mayCreate(dir)
	case err == nil && !info.IsDir():
		err = &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it can be created
	}
	if err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	defer root.Close()
	if err := writable(dir); err != nil && !errors.Is(err, syscall.EROFS) { // its files can be served
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	if _, err := layoutOf(root); err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	return nil
}

// mayCreate returns why dir, which does not exist, cannot be created.
func mayCreate(dir string) error {
	for parent := filepath.Dir(dir); ; dir, parent = parent, filepath.Dir(parent) {
		info, err := os.Stat(parent)
		switch {
		case errors.Is(err, fs.ErrNotExist) && parent != dir:
			continue
		case err == nil && !info.IsDir():
			err = syscall.ENOTDIR
		case err == nil:
			err = writable(parent)
		}
		if err != nil {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: bare(err)}
		}
		return nil
	}
}

// bare returns an error without its path.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
