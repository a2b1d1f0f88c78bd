package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// heldDir is the descriptor of an open directory. It is no *os.File, which is
// closed by the garbage collector: an abandoned Badger may still open files
// through it.
type heldDir int

// holdDir opens dir and returns a path that leads there for as long as it is
// held, whatever is mounted over dir or put in its place. On a system without
// such paths (/proc/self/fd of Linux) that is dir itself.
func holdDir(dir string) (held heldDir, path string, err error) {
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, "", &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	there, err := os.Stat(path)
	asked, err2 := os.Stat(dir)
	if err != nil || err2 != nil || !os.SameFile(there, asked) {
		path = dir
	}
	return heldDir(fd), path, nil
}

// Close ends the hold.
func (h heldDir) Close() error { return syscall.Close(int(h)) }

// syncDir writes a directory's entries to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func notThere(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
