package testkit

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Unopenable has every opening of a file fail with EAGAIN, root's too, until
// mend is called or the system's lease-break-time (45 seconds) has passed: a
// lease is held on it (fcntl(2), F_SETLEASE). Nobody may have it open.
func Unopenable(t testing.TB, name string) (mend func()) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mend = sync.OnceFunc(func() { _ = f.Close() })
	t.Cleanup(mend)
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	if opened, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.EAGAIN) {
		_ = opened.Close()
		t.Skipf("leases do not keep anybody out here: %v", err)
	}
	return mend
}
