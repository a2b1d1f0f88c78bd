package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hubcap/e2e/testkit"
)

// namespace is a network of its own with a loopback interface and nothing else, mounts and a process tree of its own.
// No client inside can reach the Internet, so a pull that succeeds was served by what the test put there, and names such as
// registry-1.docker.io can mean the stand-in.
//
// Its first process ends when our end of its standard input is closed, and the kernel then kills every other process inside
// and drops the mounts: nothing outlives a test, nor a test binary that was killed.
type namespace struct {
	first *exec.Cmd
	stdin io.Closer
	files []namespaceFile
}

type namespaceFile struct {
	file *os.File
	kind int
}

// firstProcess prepares the namespace from inside and then waits for the end of its input. Whatever the clients are told, they also
// keep state in some places of the system: there it is private and short-lived.
const firstProcess = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$1" /etc/hosts
for dir in /run /dev/shm /etc/docker /etc/containerd /etc/containers/certs.d /etc/containers/registries.conf.d /var/lib/containers; do
	mkdir -p $dir
	mount -t tmpfs tmpfs $dir
done
ip link set lo up
echo ready
exec cat >/dev/null`

// newNamespace makes a namespace in which the host names mean 127.0.0.1.
func newNamespace(t *testing.T, hosts ...string) *namespace {
	t.Helper()
	return newNamespaceKnowing(t, "127.0.0.1 localhost "+strings.Join(hosts, " ")+"\n")
}

// newNamespaceKnowing makes a namespace with a hosts file.
func newNamespaceKnowing(t *testing.T, hosts string) *namespace {
	t.Helper()
	need(t, "ip", "mount")
	if os.Getuid() != 0 {
		testkit.Missing(t, "namespaces need root")
	}
	hostsFile := filepath.Join(scratch(t), "hosts")
	if err := os.WriteFile(hostsFile, []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	first := exec.Command("sh", "-c", firstProcess, "sh", hostsFile)
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	first.Stderr = os.Stderr
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		testkit.Missing(t, "namespaces are not permitted here (%v)", err)
	}
	ns := &namespace{first: first, stdin: stdin}
	t.Cleanup(ns.close)
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		testkit.Missing(t, "mounts inside a namespace are not permitted here")
	}
	if err := ns.open(); err != nil {
		t.Fatal(err)
	}
	return ns
}

// open takes hold of the namespaces of the first process.
func (ns *namespace) open() error {
	for _, each := range []struct {
		name string
		kind int
	}{{"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS}} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", ns.first.Process.Pid, each.name))
		if err != nil {
			return err
		}
		ns.files = append(ns.files, namespaceFile{file, each.kind})
	}
	return nil
}

// close ends the first process and waits: the kernel has killed all the others by then.
func (ns *namespace) close() {
	_ = ns.stdin.Close()
	_ = ns.first.Process.Kill()
	_ = ns.first.Wait()
	for _, each := range ns.files {
		_ = each.file.Close()
	}
}

// inside calls do on a thread that has entered the namespace. Sockets opened there belong to its network for good, and processes
// started there are inside. The thread cannot come back, so the goroutine ends locked to it and takes it along.
func (ns *namespace) inside(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			// A mount namespace can only be entered by a thread with a working directory of its own.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			for _, each := range ns.files {
				if err := unix.Setns(int(each.file.Fd()), each.kind); err != nil {
					return fmt.Errorf("setns %s: %w", each.file.Name(), err)
				}
			}
			return do()
		}()
	}()
	return <-done
}

func (ns *namespace) listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := ns.inside(func() (err error) {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

func (ns *namespace) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := ns.inside(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// httpClient is an HTTP client inside. Addresses must be numbers.
func (ns *namespace) httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: ns.dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// start starts a program inside. The thread entered another mount namespace and stands at its root, hence the working directory.
func (ns *namespace) start(cmd *exec.Cmd) error {
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	return ns.inside(cmd.Start)
}

// waitUntil polls a condition. The deadline only keeps a broken test from hanging.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	const patience = time.Minute
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
