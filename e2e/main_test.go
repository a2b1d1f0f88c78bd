// Package e2e pulls real images with real clients through the real hubcap binary, and counts what crosses the upstream link.
//
// The tests need root, private namespaces and the clients themselves. What is missing skips a test by name, and so does -short.
//
//	TEST_E2E=require     what is missing is a failure: a CI machine that has lost a client is noticed
//	TEST_E2E_CLIENTS=dir where .ci/run has put the clients that Debian lacks; by default bin/hubcap-e2e below GOPATH
//	TEST_E2E_CACHE=dir   where the image made from Debian is kept; by default in the user's cache directory
//	TEST_E2E_RACE=1      builds hubcap with the race detector
package e2e

import (
	"flag"
	"os"
	"runtime"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
)

// Threads that have entered a namespace are thrown away afterwards, which cannot be done to the main thread:
// it would stay inside for good. So the main goroutine keeps it for itself.
func init() { runtime.LockOSThread() }

// TestMain lets some tests run at the same time, whatever the processors: those
// in parallel have a namespace of their own, and wait for most of their time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	os.Exit(testkit.Main{M: m}.Run())
}

// need skips the test unless every program is installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("real clients take their time: not with -short")
	}
	testkit.NeedPrograms(t, programs...)
}

// scratch is a directory for the time of a test. Its path is short, unlike t.TempDir's: the daemons put Unix sockets far below it,
// and the path of a socket must fit in 107 bytes.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("scratch directory: %v", err)
		}
	})
	return dir
}

// tail is the end of a log: enough to see what went wrong.
func tail(log []byte) string {
	const enough = 32 << 10
	if len(log) <= enough {
		return string(log)
	}
	_, rest, _ := strings.Cut(string(log[len(log)-enough:]), "\n")
	return "…\n" + rest
}
