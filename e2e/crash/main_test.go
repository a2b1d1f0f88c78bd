// Package crash kills hubcap, cuts its power, fills and breaks its disk and damages its files, and holds after each round that it
// starts, that nobody was given wrong bytes, and that nothing lies in the data directory that it does not account for.
//
// The tests drive the real binary in front of fakehub. Those that need a file system of their own need root; what is missing skips a
// test by name.
//
//	TEST_CRASH=full      as many rounds as a release asks for, instead of a minute or two of them, and of some seconds with -short
//	TEST_CRASH_SEED=n    the moments, sizes and places of an earlier run, which printed n
//	TEST_E2E=require     a program that is not installed is a failure; a kernel that cannot is not
//
// Files: main_test.go (this), box_test.go (the process), site_test.go (content and pulls), account_test.go (what must hold of the data
// directory), disk_test.go and faultfs_test.go (file systems that fail); the tests themselves in kill_test.go, power_test.go, failpoint_test.go,
// space_test.go, device_test.go, damage_test.go, index_test.go, pins_test.go and owners_test.go.
package crash

import (
	"errors"
	"flag"
	"hubcap/e2e/testkit"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// root is the module's directory, seen from here.
const root = "../.."

// insideVariable tells the test binary that it runs in the mount namespace that it asked for.
const insideVariable = "TEST_CRASH_INSIDE"

// seed is what every random choice of this run is made from.
var seed = func() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("TEST_CRASH_SEED"), 10, 64); err == nil {
		return n
	}
	return uint64(time.Now().UnixNano())
}()

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getuid() == 0 && os.Getenv(insideVariable) == "" {
		if code, err := runInside(); err == nil {
			os.Exit(code)
		}
		// A machine that has no namespaces to give may still have mounts.
	}
	os.Exit(testkit.Main{M: m}.Run())
}

// runInside runs this binary again with mounts of its own: they go with its last process, however it ends.
func runInside() (code int, err error) {
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), insideVariable+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := again.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 0, err
	}
	return again.ProcessState.ExitCode(), nil
}

// takesLong skips a test with -short.
func takesLong(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes some seconds of processor time: not with -short")
	}
}

// begin is the first line of each test. The random numbers are the test's own, so that each can be replayed alone.
func begin(t testing.TB, programs ...string) *rand.Rand {
	t.Helper()
	testkit.NeedPrograms(t, programs...)
	t.Logf("TEST_CRASH_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// rounds is how many rounds a test has: a fifth of the quick ones with -short.
func rounds(quick, full int) int {
	switch {
	case os.Getenv("TEST_CRASH") == "full":
		return full
	case testing.Short():
		return (quick + 4) / 5
	default:
		return quick
	}
}

// sampled is all of what a test goes through, and a few of it, at random, with -short.
func sampled[T any](random *rand.Rand, all []T) []T {
	all = slices.Clone(all)
	if testing.Short() && os.Getenv("TEST_CRASH") != "full" {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:(len(all)+4)/5]
	}
	return all
}

// progress tells now and then how far a long test has come.
func progress(t testing.TB, round int) {
	t.Helper()
	if done := round + 1; done%50 == 0 {
		t.Logf("%d rounds", done)
	}
}

// waitUntil polls a condition. The deadline only keeps a broken test from hanging.
func waitUntil(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// patience is what a test has with anything that should happen at once.
const patience = time.Minute

// upTo is a random time below limit.
func upTo(random *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(limit)))
}
