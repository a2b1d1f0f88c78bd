package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hubcap/e2e/testkit"
)

// lintian has Debian's own check read the package.
func lintian(t *testing.T, deb string) {
	need(t, "lintian")
	if out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", deb).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// machine is the root file system of a Debian without systemd.
type machine struct {
	t    *testing.T
	root string
}

// newMachine unpacks the image made from Debian.
func newMachine(t *testing.T) machine {
	t.Helper()
	if os.Getuid() != 0 {
		testkit.Missing(t, "a root file system needs root")
	}
	m := machine{t, filepath.Join(scratch(t), "root")}
	i := debianImage(t)
	if err := os.Mkdir(m.root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, blob := range i.pulled() {
		if strings.Contains(blob.MediaType, "layer") {
			unpack := exec.Command("tar", "-C", m.root, "-xzf", "-")
			unpack.Stdin = bytes.NewReader(i.blobs[blob.Digest])
			if out, err := unpack.CombinedOutput(); err != nil {
				t.Fatalf("tar: %v\n%s", err, out)
			}
		}
	}
	for _, dir := range []string{"dev", "proc", "run", "tmp", "var/cache", "var/log"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(m.root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		testkit.Unable(t, "make a device: %v", err)
	}
	return m
}

// command runs in the machine, in the place and namespaces of the tests.
func (m machine) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.root}
	return cmd
}

func (m machine) dpkg(args ...string) string {
	m.t.Helper()
	out, err := m.command("/usr/bin/dpkg", args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("dpkg %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func (m machine) has(path string) bool {
	_, err := os.Lstat(filepath.Join(m.root, path))
	return err == nil
}

// user returns the ids of the user hubcap.
func (m machine) user() *syscall.Credential {
	m.t.Helper()
	content, err := os.ReadFile(filepath.Join(m.root, "etc/passwd"))
	if err != nil {
		m.t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		if fields := strings.Split(lines.Text(), ":"); fields[0] == "hubcap" {
			uid, err := strconv.ParseUint(fields[2], 10, 32)
			gid, err2 := strconv.ParseUint(fields[3], 10, 32)
			if err != nil || err2 != nil || uid == 0 || fields[6] != "/usr/sbin/nologin" && fields[6] != "/sbin/nologin" {
				m.t.Fatalf("the user is %q", fields)
			}
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	m.t.Fatal("there is no user hubcap")
	return nil
}

// serves starts the installed program as the unit does, waits until it is ready
// and ends it.
func (m machine) serves() {
	m.t.Helper()
	who, data := m.user(), filepath.Join(m.root, "var/lib/hubcap")
	if err := os.MkdirAll(data, 0o700); err != nil { // StateDirectory
		m.t.Fatal(err)
	}
	if err := os.Chown(data, int(who.Uid), int(who.Gid)); err != nil {
		m.t.Fatal(err)
	}
	listen := "HUBCAP_LISTEN=127.0.0.1:" + testkit.FreePort(m.t)
	environ := []string{"HUBCAP_DATA_DIR=/var/lib/hubcap", listen, "HUBCAP_ADMIN_LISTEN=127.0.0.1:" + testkit.FreePort(m.t), "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0"}
	service := m.command("/usr/bin/hubcap")
	service.Env = append(service.Env, environ...)
	service.SysProcAttr.Credential = who
	var log testkit.Log
	service.Stderr = &log
	if err := service.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		_ = service.Process.Signal(syscall.SIGTERM)
		if err := service.Wait(); err != nil {
			m.t.Errorf("hubcap ends with %v\n%s", err, log.String())
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		check := m.command("/usr/bin/hubcap", "healthcheck")
		check.Env = append(check.Env, environ...)
		out, err := check.CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the installed hubcap is not ready: %v %s\n%s", err, out, log.String())
		}
	}
}

// named are the files and directories of a machine whose names hold hubcap's, and
// are not those of the test's image.
func (m machine) named() (all []string) {
	m.t.Helper()
	err := filepath.WalkDir(m.root, func(path string, entry fs.DirEntry, err error) error {
		if name := strings.TrimPrefix(path, m.root); err == nil && strings.Contains(entry.Name(), "hubcap") && name != "/etc/hubcap-e2e" {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

// debOnDebian installs the package on a Debian without systemd, runs what is
// in it, and takes it away again.
func debOnDebian(t *testing.T, deb string) {
	m := machineWith(t, deb)
	m.serves()
	settings, unit := filepath.Join(m.root, "etc/hubcap/hubcap.env"), filepath.Join(m.root, "lib/systemd/system/hubcap.service")
	info, err := os.Stat(filepath.Dir(settings))
	if err != nil || info.Mode().Perm() != 0o750 || info.Sys().(*syscall.Stat_t).Gid != m.user().Gid {
		t.Errorf("/etc/hubcap is %v, %v; want it for root and the group hubcap", info.Mode(), err)
	}
	content, err := os.ReadFile(unit)
	if err != nil || !strings.Contains(string(content), "\nExecStart=/usr/bin/hubcap\n") || !strings.Contains(string(content), "\nUser=hubcap\n") || strings.Contains(string(content), "DynamicUser") {
		t.Errorf("the unit: %v\n%s", err, content)
	}

	confinedUnit(t, unit)

	const mine = "HUBCAP_LOG_LEVEL=warn\n"
	if err := os.WriteFile(settings, []byte(mine), 0o640); err != nil {
		t.Fatal(err)
	}
	m.dpkg("-i", "/package.deb") // an upgrade
	if content, err := os.ReadFile(settings); err != nil || string(content) != mine {
		t.Errorf("after an upgrade the settings are %q, %v", content, err)
	}
	m.dpkg("-r", "hubcap")
	if m.has("usr/bin/hubcap") || !m.has("etc/hubcap/hubcap.env") || !m.has("var/lib/hubcap/blobs") {
		t.Errorf("removed, there are %q", m.named())
	}
	// What HUBCAP_DATA_DIR puts elsewhere is not the package's to remove.
	if err := errors.Join(os.Mkdir(filepath.Join(m.root, "srv/cache"), 0o755), os.Symlink("/srv/cache", filepath.Join(m.root, "var/lib/hubcap/link"))); err != nil {
		t.Fatal(err)
	}
	m.dpkg("-P", "hubcap")
	if left := m.named(); len(left) > 0 || !m.has("srv/cache") {
		t.Errorf("purged, there are %q", left)
	}
	if out, err := m.command("/usr/bin/dpkg-query", "-W", "hubcap").CombinedOutput(); err == nil {
		t.Errorf("dpkg knows %s", out)
	}
	m.user() // stays: it may own files elsewhere
}

// confinedUnit has systemd read and rate the unit, as deploy/deploy_test.go does
// with the one that it is made from.
func confinedUnit(t *testing.T, unit string) {
	t.Helper()
	need(t, "systemd-analyze")
	if out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", unit).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// machineWith returns a machine with the package.
func machineWith(t *testing.T, deb string) machine {
	t.Helper()
	m := newMachine(t)
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, "package.deb"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := m.dpkg("-i", "/package.deb"); strings.Contains(strings.ToLower(out), "warning") {
		t.Errorf("dpkg: %s", out)
	}
	return m
}

// rpmOnDebian installs the rpm into a root file system, where its scripts run as on
// any other, and erases it.
func rpmOnDebian(t *testing.T, rpm string) {
	need(t, "rpm")
	m := newMachine(t)
	host := func(args ...string) {
		t.Helper()
		cmd := exec.Command("rpm", append([]string{"--root", m.root, "--force-debian", "--nodeps"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "scriptlet failed") {
			t.Fatalf("rpm %q: %v\n%s", args, err, out)
		}
	}
	host("-i", rpm)
	for _, file := range []string{"usr/bin/hubcap", "usr/lib/systemd/system/hubcap.service", "usr/share/man/man1/hubcap.1.gz"} {
		if !m.has(file) {
			t.Errorf("%s is not installed", file)
		}
	}
	m.serves()
	host("-e", "hubcap")
	left := m.named()
	if slices.Contains(left, "/usr/bin/hubcap") || !slices.Contains(left, "/var/lib/hubcap") {
		t.Errorf("erased, there are %q", left)
	}
}
