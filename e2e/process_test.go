package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// process is a daemon inside a namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	log  testkit.Log
	done chan struct{} // closed when it has ended; cmd.ProcessState is set by then
}

// startDaemon starts a daemon that is stopped at the end of the test, and whose log is shown if the test failed.
func startDaemon(t *testing.T, ns *namespace, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that keeps the log open must not keep us from seeing the end of the daemon.
	cmd.WaitDelay = time.Second
	if err := ns.start(cmd); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, tail(p.log.Bytes()))
		}
	})
	return p
}

func (p *process) signal(signal syscall.Signal) {
	if !p.ended() {
		_ = p.cmd.Process.Signal(signal)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the daemon to end, and makes it end together with its children if it does not.
func (p *process) stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.done
}

// exitCode waits for the end.
func (p *process) exitCode(t *testing.T) int {
	t.Helper()
	waitUntil(t, p.name+" ends", p.ended)
	return p.cmd.ProcessState.ExitCode()
}

// waitReady waits until the daemon answers.
func (p *process) waitReady(t *testing.T, ready func() bool) {
	t.Helper()
	waitUntil(t, p.name+" is ready", func() bool {
		if p.ended() {
			t.Fatalf("%s has ended: %v", p.name, p.cmd.ProcessState)
		}
		return ready()
	})
}

// run runs a program inside to its end and returns what it printed.
func run(ns *namespace, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := ns.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// mustRun is run for what has to succeed.
func mustRun(t *testing.T, ns *namespace, cmd *exec.Cmd) string {
	t.Helper()
	out, err := run(ns, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// environment is the one the tests run in, without what would lead a client elsewhere, plus settings.
func environment(settings ...string) []string {
	misleading := regexp.MustCompile(`(?i)^(.*_PROXY|(HUBCAP|SSL_CERT|DOCKER|REGISTRY|CONTAINERS?)_.*)=`)
	env := slices.DeleteFunc(os.Environ(), misleading.MatchString)
	return append(env, settings...)
}
