// Package limits brings the real binary to its limits: file descriptors, memory, connections that say nothing. It has to live, to serve
// what it holds, and to be its old self when the crowd has gone.
//
// What the machine does not have skips a test by name.
//
//	TEST_LIMITS=full     as many connections and bytes as a release asks for, instead of a minute of them, and of some seconds with -short
//	TEST_E2E=require     a program that is not installed is a failure; a kernel that cannot is not
//
// Files: main_test.go (this), box_test.go (the process and its clients); the tests themselves in crowd_test.go and memory_test.go.
package limits

import (
	"flag"
	"hubcap/e2e/testkit"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testkit.Main{M: m}.Run())
}

// number is how many of something a test has: a fifth of the quick ones with -short.
func number(quick, full int) int {
	switch {
	case os.Getenv("TEST_LIMITS") == "full":
		return full
	case testing.Short():
		return quick / 5
	default:
		return quick
	}
}

// patience is what a test has with anything that should happen soon.
const patience = 2 * time.Minute

// eventually polls a condition. The deadline only keeps a broken test from hanging.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
