package crash

import (
	"hubcap/e2e/testkit"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system of the test's own, in a file.
type disk struct {
	kind    string // ext4, xfs or btrfs
	image   string
	dir     string // where it is mounted
	options string
}

// newDisk makes and mounts a file system of size bytes; no more is taken on the machine's disk than is written.
func newDisk(t *testing.T, kind string, size int64, options string) *disk {
	t.Helper()
	needRoot(t)
	scratch := t.TempDir()
	d := &disk{kind: kind, image: filepath.Join(scratch, "image"), dir: filepath.Join(scratch, "mount"), options: "loop"}
	if options != "" {
		d.options += "," + options
	}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	make := []string{"-q", d.image}
	if kind == "ext4" {
		make = []string{"-q", "-F", "-m", "0", d.image} // -m: all of it is for us
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs."+kind, make...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.%s: %v\n%s", kind, err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) })
	if err := d.mount(); err != nil {
		testkit.Unable(t, "%v", err)
	}
	return d
}

// data is the data directory on the disk.
func (d *disk) data() string { return filepath.Join(d.dir, "data") }

func (d *disk) mount() error {
	out, err := exec.Command("mount", "-t", d.kind, "-o", d.options, d.image, d.dir).CombinedOutput()
	if err != nil {
		return &mountError{string(out), err}
	}
	return nil
}

// mountError is what mount had to say.
type mountError struct {
	output string
	err    error
}

func (e *mountError) Error() string { return "mount: " + e.err.Error() + ": " + e.output }
func (e *mountError) Unwrap() error { return e.err }

// remount is what happens when the power comes back: the journal is replayed. No process may have a file open there.
func (d *disk) remount(t *testing.T) {
	t.Helper()
	d.remountAs(t, d.options)
}

// remountAs is remount with other options from now on.
func (d *disk) remountAs(t *testing.T, options string) {
	t.Helper()
	d.options = options
	waitUntil(t, "nobody uses the disk", func() bool { return unix.Unmount(d.dir, 0) == nil })
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
}

// cutPower makes the disk forget what was not synced, and refuse everything from now on: FS_IOC_SHUTDOWN without a flush of the log.
func (d *disk) cutPower(t *testing.T) {
	t.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2
	root, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.IoctlSetPointerInt(int(root.Fd()), shutdown, noLogFlush); err != nil {
		testkit.Unable(t, "cutting the power: %v", err)
	}
}

// sync writes everything out, as time would.
func (d *disk) sync(t *testing.T) {
	t.Helper()
	root, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		t.Fatal(err)
	}
}

// needRoot skips the test for users who may not mount.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		testkit.Unable(t, "a file system of one's own needs root")
	}
}
