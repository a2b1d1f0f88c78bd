package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// inMemory is a file system in memory that Linux machines have.
const inMemory = "/dev/shm"

// roomInMemory is what InMemory wants to be free, in bytes: the tests of a room
// take some hundred MiB. Docker gives a container 64 MiB of it.
const roomInMemory = 2 << 30

// memoryDir is the directory that InMemory has made, or empty.
var memoryDir string

// InMemory has the temporary directories of this process lie in memory, where an
// fsync costs nothing. It is for tests that hold what is written against what is
// read, and not for those that cut the power. Where there is no such file
// system, or too little room, nothing changes. Main removes the directory.
func InMemory() {
	var fs unix.Statfs_t
	if os.Getenv("TMPDIR") != "" || unix.Statfs(inMemory, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail < roomInMemory/4096 { // in pages
		return
	}
	removeOfTheDead()
	dir := memoryDirOf(os.Getpid())
	if os.Mkdir(dir, 0o700) == nil && os.Setenv("TMPDIR", dir) == nil {
		memoryDir = dir
	}
}

func memoryDirOf(process int) string {
	return filepath.Join(inMemory, fmt.Sprintf("hubcap-test-%d", process))
}

// removeOfTheDead removes the directories of processes that were killed, since
// what they hold is memory.
func removeOfTheDead() {
	dirs, _ := filepath.Glob(filepath.Join(inMemory, "hubcap-test-*"))
	for _, dir := range dirs {
		var process int
		if n, _ := fmt.Sscanf(filepath.Base(dir), "hubcap-test-%d", &process); n == 1 && syscall.Kill(process, 0) == syscall.ESRCH {
			_ = os.RemoveAll(dir)
		}
	}
}

func removeMemoryDir() {
	if memoryDir != "" {
		_ = os.RemoveAll(memoryDir)
	}
}
