package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
	"hubcap/proxy/server"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	os.Exit(testkit.Main{M: m}.Run())
}

// soon is how long a test waits for what should happen at once.
const soon = 20 * time.Second

// result is what a user sees of a command.
type result struct {
	out, errs string
	code      int
}

// run runs a command line. The environment is environ alone.
func run(line string, environ ...string) result {
	return runWith(context.Background(), Options{Environ: environ}, strings.Fields(line)...)
}

func runWith(ctx context.Context, o Options, args ...string) result {
	var out, errs bytes.Buffer
	o.Stdout, o.Stderr, o.Version = &out, &errs, "test"
	if o.Stdin == nil {
		o.Stdin = strings.NewReader("")
	}
	err := Run(ctx, args, o)
	code := Report(&errs, err)
	return result{out.String(), errs.String(), code}
}

// hubcap is one that runs inside the test, with a fake Docker Hub behind it.
type hubcap struct {
	t       *testing.T
	hub     *fakehub.Hub
	mirror  string   // host:port
	environ []string // of the commands
}

// start starts a hubcap and returns when it is ready.
func start(t *testing.T, environ ...string) *hubcap {
	t.Helper()
	h := &hubcap{t: t, hub: fakehub.Start(t, fakehub.Options{RateLimit: 100}), mirror: "127.0.0.1:" + testkit.FreePort(t)}
	dir, admin := t.TempDir(), "127.0.0.1:"+testkit.FreePort(t)
	h.environ = []string{"HUBCAP_DATA_DIR=" + dir, "HUBCAP_URL=http://" + admin, "HUBCAP_TOKEN_FILE=" + filepath.Join(dir, "admin-token")}
	all := append([]string{
		"HUBCAP_LISTEN=" + h.mirror, "HUBCAP_ADMIN_LISTEN=" + admin, "HUBCAP_DATA_DIR=" + dir,
		"HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0", "HUBCAP_DRAIN_TIMEOUT=200ms",
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + h.hub.RegistryURL(), "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + strings.TrimPrefix(h.hub.TokenURL(), "http://"),
	}, environ...)
	c, err := config.Load(all)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(c, server.Options{Log: slog.New(slog.DiscardHandler), Version: "1.4.0", Environ: all})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	for deadline := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
		if server.Healthcheck(c) == nil {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not ready")
		}
	}
}

// run runs a command line against it.
func (h *hubcap) run(line string) result { return run(line, h.environ...) }

var digests = regexp.MustCompile(`"digest":"(sha256:[0-9a-f]{64})"`)

// pull pulls library/demo as a client does.
func (h *hubcap) pull() {
	h.t.Helper()
	for _, one := range digests.FindAllStringSubmatch(h.get("library/demo/manifests/v1"), -1) {
		h.get("library/demo/blobs/" + one[1])
	}
}

func (h *hubcap) get(path string) string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.mirror + "/v2/" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return string(body)
}
