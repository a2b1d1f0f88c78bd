package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a program under measurement. Its children count with it.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

// start runs a program and waits until url answers.
func start(logFile, url string, environ []string, argv ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Clean(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: anyCertificate(), DisableKeepAlives: true}}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
			return p, nil
		}
	}
	p.kill()
	text, _ := os.ReadFile(filepath.Clean(logFile))
	return nil, fmt.Errorf("%s does not come up: %s", argv[0], text)
}

// kill ends the program as a power cut would.
func (p *process) kill() {
	for _, pid := range p.pids() {
		if other, err := os.FindProcess(pid); err == nil {
			_ = other.Kill()
		}
	}
	_ = p.cmd.Wait()
	_ = p.log.Close()
}

// pids are the program's and its children's.
func (p *process) pids() []int {
	all := []int{p.cmd.Process.Pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", all[0], all[0]))
	if err != nil {
		return all
	}
	for _, field := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// cpu is the processor time that the program has taken, to a hundredth of a
// second.
func (p *process) cpu() time.Duration {
	var ticks int64
	for _, pid := range p.pids() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything; the fields follow it.
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		fields := strings.Fields(rest)
		for _, i := range []int{11, 12} { // utime, stime
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// peak is the most memory that the program has had resident, in bytes.
func (p *process) peak() float64 { return p.memory("VmHWM:") }

// resident is the memory that the program has resident now, in bytes.
func (p *process) resident() float64 { return p.memory("VmRSS:") }

// memory is what the system says of the program's memory under a name.
func (p *process) memory(name string) (bytes float64) {
	for _, pid := range p.pids() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(status), name)
		if fields := strings.Fields(rest); len(fields) > 0 {
			kib, _ := strconv.ParseFloat(fields[0], 64)
			bytes += kib * 1024
		}
	}
	return bytes
}

// freeAddress is an address on loopback where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// servePlain is bare net/http on a directory, over TLS if there is a certificate. It
// ends with its process.
func servePlain(dir string, p pair) error {
	root, address, ok := strings.Cut(dir, "@")
	if !ok {
		return errors.New("want directory@address")
	}
	server := http.Server{Addr: address, Handler: http.FileServer(http.Dir(root)), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	if p.certificate == "" {
		return server.ListenAndServe()
	}
	return server.ListenAndServeTLS(p.certificate, p.key)
}
