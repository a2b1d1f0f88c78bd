package e2e

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// mirror and admin are where hubcap listens. Every namespace has these ports to itself.
const (
	mirror = "127.0.0.1:5000"
	admin  = "127.0.0.1:5001"
)

// hubcap is a running box.
type hubcap struct {
	*process
	http *http.Client
}

// startHubcap starts a box in front of the stand-in for Docker Hub and waits until it is ready. A later setting beats an earlier one.
func (s *site) startHubcap(t *testing.T, dataDir string, settings ...string) *hubcap {
	t.Helper()
	return startHubcap(t, s.ns, dataDir, append([]string{
		"HUBCAP_UPSTREAM_0_HOST=" + dockerHub,
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
		"HUBCAP_UPSTREAM_0_CA_FILE=" + s.caFile,
	}, settings...)...)
}

func startHubcap(t *testing.T, ns *namespace, dataDir string, settings ...string) *hubcap {
	t.Helper()
	cmd := exec.Command(testkit.Hubcap(t, ".."))
	cmd.Env = environment(append([]string{
		"HUBCAP_LISTEN=" + mirror,
		"HUBCAP_ADMIN_LISTEN=" + admin,
		"HUBCAP_DATA_DIR=" + dataDir,
		"HUBCAP_CACHE_SIZE=4GiB",
		"HUBCAP_MIN_FREE=64MiB", // the default is a share of the disk, and this machine's may be full
	}, settings...)...)
	h := &hubcap{http: ns.httpClient(t)}
	t.Cleanup(func() { h.assertSane(t) }) // after it has ended
	h.process = startDaemon(t, ns, "hubcap", cmd)
	h.waitReady(t, func() bool { return h.statusAt(admin, "/readyz") == http.StatusOK }) // the mirror port may have TLS
	return h
}

// assertSane fails if hubcap wrote what it never should, though all the clients were content.
func (h *hubcap) assertSane(t *testing.T) {
	t.Helper()
	if h.process == nil {
		return
	}
	for _, bad := range []string{"DATA RACE", "panic"} {
		if log := h.log.Bytes(); bytes.Contains(log, []byte(bad)) {
			t.Errorf("%s in hubcap's log:\n%s", bad, tail(log))
		}
	}
}

// status is the status of an answer of the mirror port, 0 if there is none.
func (h *hubcap) status(path string) int { return h.statusAt(mirror, path) }

func (h *hubcap) statusAt(address, path string) int {
	response, err := h.http.Get("http://" + address + path)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// metric is the sum of a metric over all its labels.
func (h *hubcap) metric(t *testing.T, name string) int64 {
	t.Helper()
	value, found := h.known(t, name)
	if !found {
		t.Fatalf("there is no metric %s", name)
	}
	return value
}

// known returns the sum of a metric's series, if there is one.
func (h *hubcap) known(t *testing.T, name string) (value int64, found bool) {
	t.Helper()
	response, err := h.http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var sum float64
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if label, _, _ := strings.Cut(series, "{"); label != name {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum, found = sum+number, true
	}
	return int64(sum), found
}

// get begins a GET. The body is the caller's to close.
func (h *hubcap) get(t *testing.T, path string) *http.Response {
	t.Helper()
	response, err := h.http.Get("http://" + mirror + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// digestOf reads the rest of an answer.
func digestOf(t *testing.T, response *http.Response, already []byte) digest.Digest {
	t.Helper()
	digester := digest.Canonical.Digester()
	_, _ = digester.Hash().Write(already)
	if _, err := io.Copy(digester.Hash(), response.Body); err != nil {
		t.Errorf("the answer is cut: %v", err)
	}
	return digester.Digest()
}
