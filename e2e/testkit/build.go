package testkit

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// hubcap is the binary that this test run has built.
var hubcap struct {
	once sync.Once
	dir  string
	err  error
}

// Hubcap is the path of hubcap, which the first call builds from the module's
// root directory: with the race detector where TEST_E2E_RACE is set. The end of
// Main removes it.
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
// for go build. There is nothing in it for a debugger, which halves the time.
//
// It looks at every source file besides: go test keeps the result of a test
// until something that the test has looked at changes, and does not see what
// another go command reads.
func Build(root, to string, arguments ...string) error {
	build := exec.CommandContext(context.Background(), "go", append([]string{"build", "-ldflags=-w", "-o", to}, arguments...)...) //nolint:gosec // the arguments are the tests' own
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
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
