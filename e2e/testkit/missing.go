package testkit

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Required reports whether a test that cannot run here is to fail: TEST_E2E is
// "require", as in .ci/run.
func Required() bool { return os.Getenv("TEST_E2E") == "require" }

// Missing skips a test, by the name of what it needs and does not find. It
// fails the test where everything is Required.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	reason := fmt.Sprintf(format, args...)
	if Required() {
		t.Fatalf("%s, and TEST_E2E=require", reason)
	}
	skipped.add(reason)
	t.Skip(reason)
}

// NeedPrograms is Missing unless every program is in the path, or is the path
// of one.
func NeedPrograms(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			Missing(t, "%s is not installed", filepath.Base(program))
		}
	}
}

// Unable skips a test on a machine that cannot run it, whatever is installed:
// not even TEST_E2E=require asks for that.
func Unable(t testing.TB, format string, args ...any) {
	t.Helper()
	reason := "this machine cannot: " + fmt.Sprintf(format, args...)
	skipped.add(reason)
	t.Skip(reason)
}

// skipped counts the tests that this process has skipped.
var skipped = skips{reasons: map[string]int{}}

type skips struct {
	mu      sync.Mutex
	reasons map[string]int
}

func (s *skips) add(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reasons[reason]++
}

// summary says what was skipped and how to have it; it is empty when nothing
// was.
func (s *skips) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reasons) == 0 {
		return ""
	}
	name := "these tests"
	if info, ok := debug.ReadBuildInfo(); ok {
		name = strings.TrimSuffix(info.Path, ".test")
	}
	most := slices.SortedFunc(maps.Keys(s.reasons), func(a, b string) int {
		return cmp.Or(s.reasons[b]-s.reasons[a], strings.Compare(a, b))
	})
	all, lines := 0, ""
	for _, reason := range most {
		all += s.reasons[reason]
		lines += fmt.Sprintf("  %3d: %s\n", s.reasons[reason], reason)
	}
	return fmt.Sprintf("%s: skipped %d tests\n%s  To have them, run .ci/run as root on Debian: it installs what they need. go test keeps results: -count=1 has it look again.\n",
		name, all, lines)
}

// Main is a test run, for TestMain, that ends with a summary of what Missing and
// Unable have skipped, and removes what Hubcap and InMemory have made.
type Main struct{ *testing.M }

// Run runs the tests and returns the exit status.
func (m Main) Run() int {
	debug.SetGCPercent(400) // tests make many large blobs and keep few of them
	code := m.M.Run()
	removeHubcap()
	removeMemoryDir()
	if summary := skipped.summary(); summary != "" {
		out, done := summaryOutput()
		_, _ = io.WriteString(out, summary)
		done()
	}
	return code
}

// summaryOutput is where a summary is seen. go test throws the output of a
// package that passes away when it is given a list of packages and no -v; what
// is written to its own standard error is shown. It is opened only if it is a
// pipe or a terminal, as a file would be written from its beginning.
func summaryOutput() (out io.Writer, done func()) {
	own := func() {}
	if testing.Verbose() {
		return os.Stdout, own
	}
	command, err := goCommand()
	if err != nil {
		return os.Stderr, own
	}
	path := fmt.Sprintf("/proc/%d/fd/2", command)
	info, err := os.Stat(path)
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeCharDevice) == 0 {
		return os.Stderr, own
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return os.Stderr, own
	}
	return file, func() { _ = file.Close() }
}

// goCommand is the process id of the go command that has started this process,
// itself or through others.
func goCommand() (id int, err error) {
	for id = os.Getppid(); id > 1; {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", id))
		if err != nil {
			return 0, err
		}
		if filepath.Base(program) == "go" {
			return id, nil
		}
		if id, err = parentOf(id); err != nil {
			return 0, err
		}
	}
	return 0, os.ErrNotExist
}

func parentOf(id int) (parent int, err error) {
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", id))
	if err != nil {
		return 0, err
	}
	defer func() { _ = status.Close() }()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "PPid: %d", &parent); n == 1 {
			return parent, nil
		}
	}
	return 0, os.ErrNotExist
}
