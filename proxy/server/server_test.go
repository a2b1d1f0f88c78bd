package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	testkit.VerifyMain(m)
}

// soon is how long a test waits for what should happen at once.
const soon = testkit.Patience

// box is a hubcap that runs inside the test.
type box struct {
	t       *testing.T
	environ []string
	log     *testkit.Log
	mirror  string // host:port
	admin   string
	client  *http.Client
	cancel  context.CancelFunc
	clock   *atomic.Int64 // how far its clock is ahead, in nanoseconds
	done    chan struct{}
	server  *Server // once it is ready
	err     error   // of New or Serve, once done is closed
}

// launch starts a hubcap; it may fail.
func launch(t *testing.T, environ ...string) *box {
	t.Helper()
	b := &box{
		t: t, log: new(testkit.Log), client: &http.Client{Transport: &http.Transport{}}, done: make(chan struct{}), clock: new(atomic.Int64),
		environ: append([]string{
			"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR=" + t.TempDir(),
			"HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0",
			"HUBCAP_DRAIN_TIMEOUT=200ms", // no client is waited for
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
		s, err := New(c, Options{
			Log: slog.New(slog.NewJSONHandler(b.log, nil)), Version: "test", Environ: b.environ,
			Now:    func() time.Time { return time.Now().Add(time.Duration(b.clock.Load())) },
			Adjust: func(s *Settings) { s.ProblemInterval, s.StartWithin = 20*time.Millisecond, time.Hour },
		})
		if err != nil {
			b.err = err
			return
		}
		defer s.Close()
		b.server = s
		b.err = s.Serve(ctx)
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

// line returns the first line of the log with a message, which may go on after
// a colon; nil if there is none.
func (b *box) line(message string) map[string]any {
	for text := range strings.Lines(b.log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && strings.HasPrefix(fmt.Sprint(line["msg"])+":", message+":") {
			return line
		}
	}
	return nil
}

// wait returns the error of New or Serve.
func (b *box) wait() error {
	b.t.Helper()
	select {
	case <-b.done:
		return b.err
	case <-time.After(soon):
		b.t.Fatal("it does not end")
		return nil
	}
}

// get returns status, type and body of an answer.
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
		{"ready", "setup", "http://" + b.mirror + "/setup"},
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

// oneLine checks the error of a start that failed.
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
	if took := time.Since(began); took > 20*time.Second {
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

// TestNewLeavesTheConfigurationAlone: a configuration serves for several starts.
// One that fails half-way gives the data directory back.
func TestNewLeavesTheConfigurationAlone(t *testing.T) {
	c, err := config.Load([]string{"HUBCAP_DATA_DIR=" + t.TempDir(), "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0"})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Log: slog.New(slog.DiscardHandler)}
	wrong := c
	wrong.DefaultUpstream = "registry.example.com"
	if _, err := New(wrong, o); err == nil {
		t.Fatal("a default registry that is not configured is accepted")
	}
	for range 2 {
		s, err := New(c, o)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	for _, u := range c.Upstreams {
		if u.Proxy != nil || u.UserAgent != "" || u.Log != nil {
			t.Errorf("%s was changed", u.Host)
		}
	}
}

func TestDataDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(t, launch(t, "HUBCAP_DATA_DIR="+file).wait(), "HUBCAP_DATA_DIR="+file, "not a directory")
}

// behind returns the settings for a hubcap in front of a fakehub.
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

// TestReplacedCAFile replaces the site's certificate authority at run time.
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
		// It is changed in one step: hubcap may look at any time.
		if err := errors.Join(os.WriteFile(file+".new", content, 0o600), os.Chtimes(file+".new", at, at), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write(other.CAPEM())
	b := start(t, append(behind(t, hub), "HUBCAP_CA_FILE="+file)...)
	if status, _, _ := b.get(b.mirror, "/v2/library/demo/manifests/v1"); status < 500 {
		t.Fatalf("a registry with an unknown authority: %d", status)
	}
	write(hub.CAPEM())
	answered := func(tag string) {
		t.Helper()
		for deadline := time.Now().Add(soon); ; {
			time.Sleep(1100 * time.Millisecond) // the file is checked once a second, and a registry that fails too often is not asked for a while
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
			t.Fatal("the broken file is not logged")
		}
	}
	answered("v2")
	if n := strings.Count(b.log.String(), broken); n != 1 {
		t.Errorf("the broken file is logged %d times", n)
	}
}
