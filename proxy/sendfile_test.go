package proxy_test

import (
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/port"
)

// TestWarmBlobIsSentByTheKernel counts the sendfile calls of a child process
// that sends a held layer from a port of its own, and of one whose response writer hides ReadFrom,
// which is how sendfile is lost.
func TestWarmBlobIsSentByTheKernel(t *testing.T) {
	const child = "TEST_SENDFILE"
	if how := os.Getenv(child); how != "" {
		sendWarmBlob(t, how == "hidden")
		return
	}
	testkit.NeedPrograms(t, "strace")
	count := func(how string) int {
		out := filepath.Join(t.TempDir(), "strace")
		cmd := exec.CommandContext(t.Context(), "strace", "-f", "-c", "-e", "trace=sendfile", "-o", out,
			os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), child+"="+how)
		if output, err := cmd.CombinedOutput(); err != nil {
			testkit.Missing(t, "strace does not work here: %v\n%s", err, output)
		}
		table, err := os.ReadFile(out)
		must(t, err)
		calls := regexp.MustCompile(`(?m)^ *[\d.]+ +[\d.]+ +\d+ +(\d+) .*sendfile$`).FindSubmatch(table)
		if calls == nil {
			return 0
		}
		n, err := strconv.Atoi(string(calls[1]))
		must(t, err)
		return n
	}
	if n := count("bare"); n == 0 {
		t.Error("no sendfile on the warm path")
	}
	if n := count("hidden"); n != 0 {
		t.Errorf("%d sendfile calls without ReadFrom: this test cannot tell", n)
	}
}

func sendWarmBlob(t *testing.T, hidden bool) {
	layer := fakehub.RandomBlob(1, 8*mib)
	r := newRig(t, rigOptions{})
	d := r.hub.AddBlob("library/demo", layer)
	var h http.Handler = r.handler
	if hidden {
		h = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			r.handler.ServeHTTP(struct{ http.ResponseWriter }{w}, q)
		})
	}
	p, err := port.Listen(port.Options{
		Name: "mirror", Address: "127.0.0.1:0", Handler: h, HeadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeader: 16 * kib,
		Limits: port.NewLimits(port.LimitsOptions{Total: 64, PerClient: 64, Waiting: 64, Now: time.Now, Metrics: r.all.Ports, Log: slog.New(slog.DiscardHandler)}),
		Now:    time.Now, Metrics: r.all.Ports, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- p.Serve() }()
	defer func() { p.Close(); <-served }()
	r.url = "http://" + p.Addr().String()
	// The hub sends from memory, so that no sendfile is its.
	r.get(blobPath("demo", d), "Range", "bytes=0-0").want(t, 206, layer[:1], "")
	r.settle()
	r.get(blobPath("demo", d)).want(t, 200, layer, "hubcap; hit")
}
