package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/cli"
	"hubcap/proxy/config"
	"hubcap/proxy/setup"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	testkit.VerifyMain(m)
}

// soon is how long a test waits for what should happen at once.
const soon = testkit.Patience

// command is what a user sees of a command that ends.
func command(args []string, environ ...string) (stdout string, err error) {
	var out, errs bytes.Buffer
	err = run(args, environ, &out, &errs)
	return out.String() + errs.String(), err
}

func TestVersion(t *testing.T) {
	out, err := command([]string{"version"})
	if err != nil || strings.TrimSpace(out) == "" || strings.Count(out, "\n") != 1 {
		t.Errorf("hubcap version: %q, %v; want one line", out, err)
	}
}

// A wrong configuration does not hide the version.
func TestVersionNeedsNoValidConfiguration(t *testing.T) {
	if _, err := command([]string{"version"}, "HUBCAP_LISTEN=wrong"); err != nil {
		t.Error(err)
	}
}

// TestConfigRefusesWhatTheStartRefuses compares what both say. The variables are
// printed all the same, and nothing is made.
func TestConfigRefusesWhatTheStartRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	garbage := write("garbage", "garbage")
	write("future/layout", "99\n")
	for _, environ := range [][]string{
		{"HUBCAP_LISTEN=wrong"},
		{"HUBCAP_CACHE_SIZE=1MiB"},
		{"HUBCAP_CA_FILE=" + garbage},
		{"HUBCAP_CA_FILE=/does/not/exist"},
		{"HUBCAP_DEFAULT_UPSTREAM=registry.example.com"},
		{"HUBCAP_UPSTREAM_0_PASSWORD_FILE=/does/not/exist", "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=me"},
		{"HUBCAP_TLS_CERT_FILE=/does/not/exist", "HUBCAP_TLS_KEY_FILE=" + garbage},
		{"HUBCAP_TLS_CERT_FILE=" + garbage, "HUBCAP_TLS_KEY_FILE=" + garbage},
		{"HUBCAP_AUTH_LISTEN=127.0.0.1:0", "HUBCAP_AUTH_TLS_CERT_FILE=" + garbage, "HUBCAP_AUTH_TLS_KEY_FILE=" + garbage},
		{"HUBCAP_DATA_DIR=" + garbage},
		{"HUBCAP_DATA_DIR=" + filepath.Join(garbage, "data")},
		{"HUBCAP_DATA_DIR=" + filepath.Join(dir, "future")},
	} {
		t.Run(environ[0], func(t *testing.T) {
			fresh := filepath.Join(dir, "fresh")
			environ := append([]string{"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR=" + fresh}, environ...)
			_, start := command(nil, environ...)
			out, config := command([]string{"config"}, environ...)
			if start == nil || config == nil || start.Error() != config.Error() || strings.Contains(start.Error(), "\n") {
				t.Errorf("the start says\n%v\nand hubcap config\n%v", start, config)
			}
			if !strings.Contains(out, "HUBCAP_TAG_TTL") {
				t.Errorf("the variables are not shown:\n%s", out)
			}
			if _, err := os.Stat(fresh); err == nil {
				t.Error("a data directory was made")
			}
		})
	}
}

// TestConfigBesideARunningHubcap finds nothing wrong with its port and directory
// in use.
func TestConfigBesideARunningHubcap(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"HUBCAP_DATA_DIR=" + dir, "HUBCAP_LISTEN=127.0.0.1:" + testkit.FreePort(t), "HUBCAP_ADMIN_LISTEN=127.0.0.1:" + testkit.FreePort(t)}
	start(t, environ...)
	if _, err := command([]string{"config"}, environ...); err != nil {
		t.Error(err)
	}
}

func TestConfigCommand(t *testing.T) {
	out, err := command([]string{"config"}, "PATH=/bin", "HUBCAP_CACHE_SIZE=50GiB", "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=me", "HUBCAP_UPSTREAM_0_PASSWORD=hunter2",
		"HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range config.Variables() {
		if name := strings.Replace(v.Name, "<n>", "0", 1); !strings.Contains(out, name+" ") {
			t.Errorf("%s is missing", name)
		}
	}
	if !strings.Contains(out, "50GiB") || !strings.Contains(out, "127.0.0.1:5001") {
		t.Errorf("want values and defaults:\n%s", out)
	}
	if strings.Contains(out, "hunter2") {
		t.Errorf("the password shows:\n%s", out)
	}
}

func TestUserMistakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, tc := range []struct {
		name    string
		args    []string
		environ []string
		want    string
	}{
		{"a mistyped command", []string{"confg"}, nil, `there is no command "confg". Did you mean config?`},
		{"an unknown command", []string{"xyzzy"}, nil, `there is no command "xyzzy"; hubcap --help lists them`},
		{"an unknown flag", []string{"--daemon"}, nil, "unknown flag: --daemon; hubcap --help has the flags"},
		{"a mistyped command with a flag", []string{"docter", "--json"}, nil, `there is no command "docter". Did you mean doctor?`},
		{"too many words", []string{"config", "all"}, nil, "usage: hubcap config"},
		{"a setup without a client", []string{"setup"}, nil, "setup: no such client; there are: " + strings.Join(setup.Names(), ", ")},
		{"a setup with too many words", []string{"setup", "docker", "ansible", "x"}, nil, "setup: no such form; there are: ansible, cloud-init"},
		{"a wrong variable for a setup", []string{"setup", "docker"}, []string{"HUBCAP_LISTEN=5000"}, "HUBCAP_LISTEN=5000: want an address to listen on, such as :5000 or 127.0.0.1:5001"},
		{"a wrong variable", nil, []string{"HUBCAP_TAG_TTL=60"}, "HUBCAP_TAG_TTL=60: want a duration above zero, such as 30s, 5m, 12h or 7d"},
		{"a wrong variable for the healthcheck", []string{"healthcheck"}, []string{"HUBCAP_LISTEN=5000"}, "HUBCAP_LISTEN=5000: want an address to listen on, such as :5000 or 127.0.0.1:5001"},
		{"a default that is no registry", nil, []string{"HUBCAP_DEFAULT_UPSTREAM=registry.example.com"}, "HUBCAP_DEFAULT_UPSTREAM=registry.example.com: want a well-known registry, such as docker.io, or one that HUBCAP_UPSTREAM_<n>_HOST names"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := command(tc.args, append(tc.environ, "HUBCAP_DATA_DIR="+dir)...)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			lines := 0 // of the log
			if len(tc.args) == 0 {
				lines = 1
			}
			if strings.Count(out, "\n") != lines {
				t.Errorf("and printed %q, want %d lines", out, lines)
			}
		})
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a mistake has made the data directory")
	}
}

// TestSetupPrintsWhatTheBoxServes compares the command with GET /setup of the
// hubcap that runs with the same configuration.
func TestSetupPrintsWhatTheBoxServes(t *testing.T) {
	box := "127.0.0.1:" + testkit.FreePort(t)
	environ := []string{
		"HUBCAP_LISTEN=" + box, "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR=" + t.TempDir(),
		"HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_DEFAULT_UPSTREAM=registry.example.com",
		"HUBCAP_LISTEN_0_ADDRESS=127.0.0.1:" + testkit.FreePort(t), "HUBCAP_LISTEN_0_UPSTREAM=docker.io",
	}
	start(t, environ...)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, name := range setup.Names() {
		for _, form := range []string{"", "ansible"} {
			resp, err := client.Get("http://" + box + "/setup?client=" + name + "&as=" + form)
			if err != nil {
				t.Fatal(err)
			}
			served, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			printed, err := command(strings.Fields("setup "+name+" "+form), environ...)
			if (err == nil) != (resp.StatusCode == http.StatusOK) || err == nil && printed != string(served) {
				t.Errorf("setup %s %s: %v, prints\n%s\nand %d serves\n%s", name, form, err, printed, resp.StatusCode, served)
			}
		}
	}
}

// start serves until stop is called or the test ends, and returns when the
// healthcheck finds that it is ready.
func start(t *testing.T, environ ...string) (stop func() error) {
	t.Helper()
	c, err := config.Load(append(environ, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0", "HUBCAP_DRAIN_TIMEOUT=200ms"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	logs := newLog(c, io.Discard)
	go func() { ended <- serve(ctx, c, environ, logs) }()
	stop = sync.OnceValue(func() error {
		cancel()
		defer logs.Close(soon)
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	for deadline := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
		_, err := command([]string{"healthcheck"}, environ...)
		if err == nil {
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not ready: %v", err)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	port := testkit.FreePort(t)
	listen := "HUBCAP_LISTEN=127.0.0.1:" + port
	if _, err := command([]string{"healthcheck"}, listen); err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
		t.Errorf("nothing runs: %v, want one line that says so", err)
	}
	stop := start(t, listen, "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR="+t.TempDir())
	for _, from := range []string{listen, "HUBCAP_LISTEN=0.0.0.0:" + port, "HUBCAP_LISTEN=:" + port} {
		if _, err := command([]string{"healthcheck"}, from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := command([]string{"healthcheck"}, listen); err == nil {
		t.Error("it has ended and is still healthy")
	}
}

// TestDoctor shows the exit status and both forms of the report; nothing outside
// this machine is asked.
func TestDoctor(t *testing.T) {
	environ := []string{"HUBCAP_DATA_DIR=" + t.TempDir(), "HUBCAP_OFFLINE=true", "HUBCAP_LISTEN=127.0.0.1:" + testkit.FreePort(t), "HUBCAP_ADMIN_LISTEN=127.0.0.1:" + testkit.FreePort(t)}
	out, err := command([]string{"doctor"}, environ...)
	if err != nil || !strings.Contains(out, "warning  configuration  HUBCAP_OFFLINE=true: no registry is asked") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = command([]string{"doctor", "--json"}, environ...)
	var report struct {
		State  string
		Checks []struct{ Check, State, What string }
	}
	if jsonErr := json.Unmarshal([]byte(out), &report); err != nil || jsonErr != nil || report.State != "warning" || len(report.Checks) < 5 {
		t.Errorf("%v, %v\n%s", err, jsonErr, out)
	}
	out, err = command([]string{"doctor"}, "HUBCAP_LISTEN=wrong")
	if err == nil || !strings.Contains(out, "failed   configuration  HUBCAP_LISTEN=wrong") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestExitCodes runs the binary as a script does: without a hubcap, and beside one.
func TestExitCodes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds hubcap")
	}
	binary, dir, admin := testkit.Hubcap(t, "."), t.TempDir(), testkit.FreePort(t)
	exit := func(environ []string, line string) (code int, out string) {
		cmd := exec.Command(binary, strings.Fields(line)...)
		cmd.Env = append([]string{"HUBCAP_DATA_DIR=" + dir}, environ...)
		text, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(text)
	}
	check := func(want int, line string, environ ...string) {
		t.Helper()
		if code, out := exit(environ, line); code != want {
			t.Errorf("hubcap %s: exit code %d, want %d\n%s", line, code, want, out)
		}
	}
	check(cli.Done, "version")
	check(cli.Failed, "healthcheck", "HUBCAP_LISTEN=127.0.0.1:1")
	check(cli.Usage, "stats")
	check(cli.NoBox, "status")
	start(t, "HUBCAP_LISTEN=127.0.0.1:"+testkit.FreePort(t), "HUBCAP_ADMIN_LISTEN=127.0.0.1:"+admin, "HUBCAP_DATA_DIR="+dir)
	check(cli.Done, "status")
	check(cli.NotAllowed, "status --box http://127.0.0.1:"+admin)
	check(cli.NotAllowed, "status", "HUBCAP_URL=http://127.0.0.1:"+admin, "HUBCAP_TOKEN=wrong")
}
