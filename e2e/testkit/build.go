package testkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// hubcap is the binary that this test run has built.
var hubcap struct {
	once sync.Once
	dir  string
	err  error
}

// Hubcap returns the path of hubcap, which the first call builds from the
// module's root directory: with the race detector if TEST_E2E_RACE is set, and
// with no debugging information, which halves the time. The end of Main removes
// it.
func Hubcap(t testing.TB, root string) string {
	t.Helper()
	hubcap.once.Do(func() {
		if hubcap.dir, hubcap.err = os.MkdirTemp("", "hubcap-"); hubcap.err != nil {
			return
		}
		var arguments []string
		if os.Getenv("TEST_E2E_RACE") != "" {
			arguments = append(arguments, "-race")
		}
		hubcap.err = Build(root, filepath.Join(hubcap.dir, "hubcap"), arguments...)
	})
	if hubcap.err != nil {
		t.Fatal(hubcap.err)
	}
	return filepath.Join(hubcap.dir, "hubcap")
}

func removeHubcap() {
	if hubcap.dir != "" {
		_ = os.RemoveAll(hubcap.dir)
	}
}

// Build builds hubcap from the module's root directory, with further arguments
// for go build. The result is kept in the user's cache directory: go build links
// a program again only if its file is not up to date. What runs is a copy, so
// that another test can build meanwhile.
//
// Build also looks at every source file: go test keeps the result of a test until
// something that the test has looked at changes, and does not see what another go
// command reads.
func Build(root, to string, arguments ...string) error {
	kept, unlock, err := keptBuild(root, arguments)
	if err != nil {
		return err
	}
	defer unlock()
	build := exec.CommandContext(context.Background(), "go", append([]string{"build", "-ldflags=-w", "-o", kept}, arguments...)...) //nolint:gosec // the arguments are the tests' own
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	// Another process copies it: one that a test starts while this one has the
	// file open for writing would keep it from being executed.
	if out, err := exec.CommandContext(context.Background(), "cp", kept, to).CombinedOutput(); err != nil { //nolint:gosec // paths of the tests
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := entry.Name()
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") || name == "go.mod" {
			_, err = os.Stat(path)
		}
		return err
	})
}

// keptBuild returns the path where the builds of one root directory with the same
// arguments are kept, locked until unlock is called.
func keptBuild(root string, arguments []string) (path string, unlock func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	if root, err = filepath.Abs(root); err != nil {
		return "", nil, err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %q", root, arguments))
	path = filepath.Join(cache, "hubcap-tests", hex.EncodeToString(key[:8]))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", nil, err
	}
	lock, err := os.Create(path + ".lock")
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		_ = lock.Close()
		return "", nil, err
	}
	return path, func() { _ = lock.Close() }, nil
}
