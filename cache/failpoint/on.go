//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// armed is where the process dies: CRASH_AT=<point>:<n>, at the n-th time.
var (
	armed, times = parse(os.Getenv("CRASH_AT"))
	passed       atomic.Int64
)

func parse(s string) (Point, int64) {
	name, number, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		n = 1
	}
	return Point(name), n
}

// At kills the process if p is armed and it is time.
func At(p Point) {
	if p != armed || passed.Add(1) != times {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // not one step further
}
