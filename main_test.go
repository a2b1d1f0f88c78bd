package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is when a test stops waiting for what should happen at once.
const soon = 20 * time.Second

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
	b := start(t, "HUBCAP_DATA_DIR="+dir)
	if _, err := command([]string{"config"}, "HUBCAP_DATA_DIR="+dir, "HUBCAP_LISTEN="+b.mirror, "HUBCAP_ADMIN_LISTEN="+b.admin); err != nil {
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
		{"unknown command", []string{"serve"}, nil, `unknown command "serve"; there are: (none, to serve), config, version, healthcheck`},
		{"a flag", []string{"--help"}, nil, `unknown command "--help"; there are: (none, to serve), config, version, healthcheck`},
		{"too many words", []string{"config", "all"}, nil, `unknown command "config all"; there are: (none, to serve), config, version, healthcheck`},
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

// box is a hubcap that runs inside the test.
type box struct {
	t       *testing.T
	environ []string
	log     *testkit.Log
	mirror  string // host:port
	admin   string
	client  *http.Client
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of serve, once done is closed
}

// launch starts a hubcap; it may fail.
func launch(t *testing.T, environ ...string) *box {
	t.Helper()
	b := &box{
		t: t, log: new(testkit.Log), client: &http.Client{Transport: &http.Transport{}}, done: make(chan struct{}),
		environ: append([]string{
			"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR=" + t.TempDir(),
			"HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0", "HUBCAP_LOG_FORMAT=json",
			"HUBCAP_DRAIN_TIMEOUT=200ms", // nobody is there to be waited for
		}, environ...),
	}
	c, err := config.Load(b.environ)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		defer close(b.done)
		logs := newLog(c, b.log)
		defer logs.Close(soon)
		b.err = serve(ctx, c, b.environ, logs)
	}()
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		cancel()
		<-b.done
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	return b
}

// start starts a hubcap and waits until it says that it is ready.
func start(t *testing.T, environ ...string) *box {
	t.Helper()
	b := launch(t, environ...)
	b.waitReady()
	return b
}

func (b *box) waitReady() {
	b.t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
		if line := b.line("ready"); line != nil {
			b.mirror, b.admin = fmt.Sprint(line["mirror"]), fmt.Sprint(line["admin"])
			return
		}
		select {
		case <-b.done:
			b.t.Fatalf("it did not start: %v", b.err)
		default:
		}
		if time.Now().After(deadline) {
			b.t.Fatal("it is not ready")
		}
	}
}

// line is the log's first line with a message, or with one that goes on after
// a colon; or nil.
func (b *box) line(message string) map[string]any {
	for text := range strings.Lines(b.log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && strings.HasPrefix(fmt.Sprint(line["msg"])+":", message+":") {
			return line
		}
	}
	return nil
}

// wait is serve's result.
func (b *box) wait() error {
	b.t.Helper()
	select {
	case <-b.done:
		return b.err
	case <-time.After(soon):
		b.t.Fatal("serve does not return")
		return nil
	}
}

// get is status, type and body of an answer.
func (b *box) get(address, path string) (status int, contentType, body string) {
	b.t.Helper()
	resp, err := b.client.Get("http://" + address + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(content)
}

func TestPorts(t *testing.T) {
	b := start(t)
	for _, tc := range []struct {
		name, address, path string
		status              int
		contentType, body   string // what the body must hold
	}{
		{"alive", b.mirror, "/livez", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ready", b.mirror, "/readyz", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ping", b.mirror, "/v2/", 200, "application/json", "{}\n"},
		{"no metrics for clients", b.mirror, "/metrics", 404, "application/json", `{"errors":[{"code":"`},
		{"alive, for the operator", b.admin, "/livez", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ready, for the operator", b.admin, "/readyz", 200, "text/plain; charset=utf-8", "ok\n"},
		{"metrics, for the operator", b.admin, "/metrics", 200, "text/plain", "hubcap_"},
		{"no registry for the operator", b.admin, "/v2/", 404, "text/plain", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, contentType, body := b.get(tc.address, tc.path)
			if status != tc.status || !strings.HasPrefix(contentType, tc.contentType) || !strings.Contains(body, tc.body) {
				t.Errorf("%s: %d %s\n%.300s\nwant %d %s …%s…", tc.path, status, contentType, body, tc.status, tc.contentType, tc.body)
			}
			if tc.contentType == "application/json" && !json.Valid([]byte(body)) {
				t.Errorf("no JSON: %s", body)
			}
		})
	}
}

func TestStartIsLogged(t *testing.T) {
	dir := t.TempDir()
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=2GiB", "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8", "HUBCAP_LISTN=:1")
	ready := b.line("ready")
	var snippet struct {
		Mirrors []string `json:"registry-mirrors"`
	}
	if err := json.Unmarshal([]byte(fmt.Sprint(ready["daemon.json"])), &snippet); err != nil || len(snippet.Mirrors) != 1 || snippet.Mirrors[0] != "http://"+b.mirror {
		t.Errorf("daemon.json is %v, want the mirror at %s", ready["daemon.json"], b.mirror)
	}
	for _, tc := range []struct{ message, key, want string }{
		{"hubcap starts", "default", "docker.io"},
		{"cache", "size", "2.0GiB"},
		{"cache", "dir", dir},
		{"clients that may pull", "ranges", "127.0.0.0/8"},
	} {
		if got := b.line(tc.message)[tc.key]; got != tc.want {
			t.Errorf("%s: %s = %v, want %s", tc.message, tc.key, got, tc.want)
		}
	}
	if !strings.Contains(b.log.String(), "HUBCAP_LISTN is no variable of hubcap and does nothing; did you mean HUBCAP_LISTEN?") {
		t.Error("the unknown variable is not warned about")
	}
}

func TestHealthcheck(t *testing.T) {
	port := freePort(t)
	listen := "HUBCAP_LISTEN=127.0.0.1:" + port
	if _, err := command([]string{"healthcheck"}, listen); err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
		t.Errorf("nothing runs: %v, want one line that says so", err)
	}
	b := start(t, listen)
	for _, from := range []string{listen, "HUBCAP_LISTEN=0.0.0.0:" + port, "HUBCAP_LISTEN=:" + port} {
		if _, err := command([]string{"healthcheck"}, from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	b.cancel()
	if err := b.wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := command([]string{"healthcheck"}, listen); err == nil {
		t.Error("it has ended and is still healthy")
	}
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// oneLine checks what the operator is told of a start that failed.
func oneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it started")
	}
	for _, part := range append(parts, ": ") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than a line", err)
	}
}

func TestSecondOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	first := start(t, "HUBCAP_DATA_DIR="+dir)
	began := time.Now()
	err := launch(t, "HUBCAP_DATA_DIR="+dir).wait()
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	oneLine(t, err, "HUBCAP_DATA_DIR="+dir, "another hubcap is using it")
	if status, _, _ := first.get(first.mirror, "/readyz"); status != http.StatusOK {
		t.Errorf("the first one answers %d afterwards", status)
	}
	first.cancel()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	start(t, "HUBCAP_DATA_DIR="+dir) // the directory is free again
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, name := range []string{"HUBCAP_LISTEN", "HUBCAP_ADMIN_LISTEN"} {
		t.Run(name, func(t *testing.T) {
			setting := name + "=" + taken.Addr().String()
			oneLine(t, launch(t, setting).wait(), setting, "address already in use")
		})
	}
}

// TestAddressThatComesLate listens on an address that an interface gets after
// the start. Loopback has all of 127.0.0.0/8 and one address of IPv6, so that
// another one is missing until it is added.
func TestAddressThatComesLate(t *testing.T) {
	const late = "fd00:4875:6263::1" // nobody's
	ip := func(args ...string) error {
		return exec.Command("ip", append([]string{"-6", "address"}, args...)...).Run()
	}
	if os.Getuid() != 0 || ip("add", late+"/128", "dev", "lo") != nil || ip("del", late+"/128", "dev", "lo") != nil {
		t.Skip("addresses cannot be added to the loopback interface")
	}
	for _, name := range []string{"HUBCAP_LISTEN", "HUBCAP_ADMIN_LISTEN"} {
		t.Run(name, func(t *testing.T) {
			b := launch(t, name+"=["+late+"]:0")
			for deadline := time.Now().Add(soon); b.line("no interface has the address to listen on; hubcap waits until one has it") == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it does not say that it waits")
				}
			}
			if err := ip("add", late+"/128", "dev", "lo"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ip("del", late+"/128", "dev", "lo") }()
			b.waitReady()
			if status, _, _ := b.get(b.admin, "/readyz"); status != http.StatusOK {
				t.Errorf("status %d", status)
			}
		})
	}
	t.Run("it may be stopped", func(t *testing.T) {
		b := launch(t, "HUBCAP_LISTEN=["+late+"]:0")
		b.cancel()
		if err := b.wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestDataDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(t, launch(t, "HUBCAP_DATA_DIR="+file).wait(), "HUBCAP_DATA_DIR="+file, "not a directory")
}

// The cache size that was settled at the first start stays.
func TestCacheSizeIsRemembered(t *testing.T) {
	dir := t.TempDir()
	first := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=")
	size := first.line("cache")["size"]
	first.cancel()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	remembered := filepath.Join(dir, "cache-size")
	if err := os.WriteFile(remembered, []byte("3221225472\n"), 0o600); err != nil {
		t.Fatalf("first size %v: %v", size, err)
	}
	if got := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=").line("cache")["size"]; got != "3.0GiB" {
		t.Errorf("the size is %v after a restart, want what was remembered", got)
	}
}

// behind are the settings for a hubcap in front of a fakehub.
func behind(t *testing.T, hub *fakehub.Hub) []string {
	t.Helper()
	token, err := url.Parse(hub.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + token.Host, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
	}
}

// TestReplacedCAFile has the site's authority replaced while hubcap runs.
func TestReplacedCAFile(t *testing.T) {
	hub, other := fakehub.Start(t, fakehub.Options{TLS: true}), fakehub.Start(t, fakehub.Options{TLS: true})
	for _, tag := range []string{"v1", "v2"} {
		hub.Image("library/demo", tag, fakehub.RandomBlob(1, 1000))
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	at := time.Now()
	write := func(content []byte) {
		t.Helper()
		at = at.Add(time.Second) // it looks changed, however coarse the system's clock is
		if err := errors.Join(os.WriteFile(file, content, 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write(other.CAPEM())
	b := start(t, append(behind(t, hub), "HUBCAP_CA_FILE="+file)...)
	if status, _, _ := b.get(b.mirror, "/v2/library/demo/manifests/v1"); status < 500 {
		t.Fatalf("a registry that nobody vouches for: %d", status)
	}
	write(hub.CAPEM())
	answered := func(tag string) {
		t.Helper()
		for deadline := time.Now().Add(soon); ; {
			time.Sleep(1100 * time.Millisecond) // the file is looked at once a second, and a registry that fails too often is left alone
			status, _, body := b.get(b.mirror, "/v2/library/demo/manifests/"+tag)
			if status == http.StatusOK {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d %s", tag, status, body)
			}
		}
	}
	answered("v1")
	write([]byte("no certificate"))
	const broken = "a changed file of authorities' certificates cannot be used; those read before stay trusted"
	for deadline, i := time.Now().Add(soon), 0; b.line(broken) == nil; i++ {
		b.get(b.mirror, fmt.Sprint("/v2/library/demo/manifests/none-", i)) // asks the registry
		time.Sleep(50 * time.Millisecond)
		if time.Now().After(deadline) {
			t.Fatal("the broken file is not told of")
		}
	}
	answered("v2")
	if n := strings.Count(b.log.String(), broken); n != 1 {
		t.Errorf("the broken file is told of %d times", n)
	}
}

// Further mirror ports differ in the registry that they ask, and in nothing
// else.
func TestFurtherMirrorPorts(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("team/app", "v1", fakehub.RandomBlob(1, 100_000))
	token, err := url.Parse(hub.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com:8443", "HUBCAP_UPSTREAM_0_URL="+hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS="+token.Host, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
		"HUBCAP_UPSTREAM_1_HOST=docker.io", "HUBCAP_UPSTREAM_1_ALLOW=nothing", // so that nobody is asked there
		"HUBCAP_LISTEN_0_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_0_UPSTREAM=registry.example.com:8443",
		"HUBCAP_LISTEN_1_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_1_UPSTREAM=docker.io", "HUBCAP_DRAIN_TIMEOUT=30s")
	further := make(map[string]string)
	for text := range strings.Lines(b.log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == "further mirror port" {
			further[fmt.Sprint(line["default"])] = fmt.Sprint(line["address"])
		}
	}
	blob := "/v2/team/app/blobs/" + img.Layers[0].Digest.String()
	for _, tc := range []struct {
		address, path string
		status        int
	}{
		{further["registry.example.com:8443"], "/v2/", 200},
		{further["registry.example.com:8443"], "/readyz", 200},
		{further["registry.example.com:8443"], "/metrics", 404},
		{further["registry.example.com:8443"], "/v2/team/app/manifests/v1", 200},
		{further["registry.example.com:8443"], blob, 200},
		{further["docker.io"], "/v2/team/app/manifests/v1", 403},
		{further["docker.io"], blob + "?ns=registry.example.com:8443", 200},
		{b.mirror, "/v2/team/app/manifests/v1", 403},
		{b.mirror, "/v2/registry.example.com:8443/team/app/manifests/v1", 200},
	} {
		if status, _, body := b.get(tc.address, tc.path); status != tc.status {
			t.Errorf("%s%s: %d %.100q, want %d", tc.address, tc.path, status, body, tc.status)
		}
	}
	if n := hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(img.Layers[0].Digest)); n != 1 {
		t.Errorf("the layer crossed %d times", n)
	}
	b.cancel()
	if err := b.wait(); err != nil {
		t.Error(err)
	}
	for name, address := range further {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Errorf("the port of %s is open", name)
		}
	}
}

func TestFurtherPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	setting := "HUBCAP_LISTEN_0_ADDRESS=" + taken.Addr().String()
	oneLine(t, launch(t, setting, "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io").wait(), setting, "address already in use")
}

// download asks for a slow layer, and returns once its first byte is there.
func (b *box) download(layer digest.Digest) (first []byte, resp *http.Response) {
	b.t.Helper()
	resp, err := b.client.Get("http://" + b.mirror + "/v2/library/demo/blobs/" + layer.String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	first = make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return first, resp
}

func TestDrain(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20)).Layers[0].Digest
	hub.Script(fakehub.Always(&fakehub.Fault{Rate: 1 << 20}, fakehub.OfKind(fakehub.KindCDN)))
	b := start(t, append(behind(t, hub), "HUBCAP_DRAIN_TIMEOUT=30s")...)

	first, resp := b.download(layer)
	b.cancel()
	for deadline := time.Now().Add(soon); b.line("stopping") == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	for _, address := range []string{b.mirror, b.admin} {
		if status, _, body := b.get(address, "/readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
			t.Errorf("/readyz while draining: %d %q", status, body)
		}
	}
	if status, _, _ := b.get(b.admin, "/livez"); status != http.StatusOK {
		t.Errorf("/livez while draining: %d", status)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || digest.FromBytes(append(first, rest...)) != layer {
		t.Errorf("the running answer did not end well: %d bytes, %v", len(first)+len(rest), err)
	}
	resp.Body.Close()
	if err := b.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if b.line("stopped") == nil {
		t.Error("the end is not logged")
	}
	if got := b.line("stopping")["within"]; got != "30s" {
		t.Errorf("the time for draining is logged as %v, want 30s", got)
	}
}

func TestDrainEnds(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20)).Layers[0].Digest
	hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(1000)}, fakehub.OfKind(fakehub.KindCDN)))
	b := start(t, append(behind(t, hub), "HUBCAP_DRAIN_TIMEOUT=50ms")...)

	_, resp := b.download(layer)
	began := time.Now()
	b.cancel()
	if err := b.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("a cut answer looks whole")
	}
	if !strings.Contains(b.log.String(), "HUBCAP_DRAIN_TIMEOUT gives them longer") {
		t.Error("what was cut is not logged")
	}
}

// TestLimits has one client open as many connections as it may have, and one
// more, which waits for another one of its own.
func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		name, settings string
		ofOne          int
		waits          bool
	}{
		{"a client", "HUBCAP_MAX_CONNECTIONS_PER_CLIENT=40", 40, true},
		{"half of all", "HUBCAP_MAX_CONNECTIONS=80", 40, true},
		{"a proxy", "HUBCAP_TRUSTED_PROXIES=127.0.0.1\nHUBCAP_MAX_CONNECTIONS_PER_CLIENT=40", 40, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, strings.Split(tc.settings, "\n")...)
			if got := b.line("limits")["of_one_client"]; got != float64(tc.ofOne) {
				t.Errorf("of one client: %v, want %v", got, tc.ofOne)
			}
			var all []net.Conn
			for range tc.ofOne + 1 {
				conn, err := net.Dial("tcp", b.mirror)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				all = append(all, conn)
			}
			for deadline := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
				_, _, metrics := b.get(b.admin, "/metrics")
				served := tc.ofOne
				if !tc.waits {
					served++
				}
				if strings.Contains(metrics, fmt.Sprintf("hubcap_connections{port=\"mirror\"} %d\n", served)) &&
					strings.Contains(metrics, `hubcap_connections_waiting{port="mirror"} 1`+"\n") == tc.waits {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("want %d connections, and another one that waits: %t", tc.ofOne, tc.waits)
				}
			}
			if tc.waits {
				all[0].Close()
			}
			last := all[len(all)-1]
			if _, err := io.WriteString(last, "GET /v2/ HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(last); len(got) == 0 {
				t.Error("the last connection is not answered")
			}
		})
	}
}
