package monitoring

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// pulls is how many manifests the hub lets the box fetch.
const pulls = 12

// site is a box in front of a stand-in for Docker Hub, a Prometheus that scrapes it, and an Alertmanager.
type site struct {
	t          *testing.T
	hub        *fakehub.Hub
	mirror     string // host:port
	prometheus string // host:port
	socket     string // of the box's API

	mu       sync.Mutex
	received map[string][]notice // by severity
}

// startSite starts all of it, and waits until the box has been scraped.
func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, hub: fakehub.Start(t, fakehub.Options{RateLimit: pulls}), received: make(map[string][]notice)}
	box := s.startBox()
	receiver := httptest.NewServer(http.HandlerFunc(s.receive))
	t.Cleanup(receiver.Close)

	routes := write(t, "alertmanager.yml", alertmanagerConfig(t, receiver.URL))
	if out, err := exec.Command("amtool", "check-config", routes).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	alertmanager := "127.0.0.1:" + testkit.FreePort(t)
	s.start("prometheus-alertmanager", nil, "--config.file="+routes, "--storage.path="+t.TempDir(),
		"--web.listen-address="+alertmanager, "--cluster.listen-address=")
	s.prometheus = "127.0.0.1:" + testkit.FreePort(t)
	config := write(t, "prometheus.yml", prometheusConfig(write(t, "rules.yml", hasty(t)), box, alertmanager))
	s.start("prometheus", nil, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+s.prometheus, "--log.level=warn")
	s.eventually("Prometheus scrapes the box", func() bool { return s.answered("hubcap_build_info") })
	return s
}

// start starts a program that ends with the test.
func (s *site) start(program string, environ []string, args ...string) *testkit.Log {
	s.t.Helper()
	cmd, log := exec.CommandContext(context.WithoutCancel(s.t.Context()), program, args...), new(testkit.Log)
	cmd.Env, cmd.Stdout, cmd.Stderr = environ, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text := log.String(); s.t.Failed() {
			s.t.Logf("the end of the log of %s:\n%s", filepath.Base(program), text[max(0, len(text)-4<<10):])
		}
	})
	return log
}

// readyLine is what hubcap logs once it listens.
var readyLine = regexp.MustCompile(`msg=ready mirror=([\d.:]+) .*admin=([\d.:]+)`)

// startBox starts a box with a small cache, a TLS port, a registry that is down and one that refuses its credentials, a
// sister and a bucket that are down. It returns where it is scraped.
func (s *site) startBox() (admin string) {
	s.t.Helper()
	token, err := url.Parse(s.hub.TokenURL())
	if err != nil {
		s.t.Fatal(err)
	}
	cert, key := s.certificate()
	s.socket = filepath.Join(s.t.TempDir(), "hubcap.sock")
	environ := []string{
		"HUBCAP_ADMIN_SOCKET=" + s.socket,
		"HUBCAP_SISTERS=http://127.0.0.1:" + testkit.FreePort(s.t), "HUBCAP_S3_URL=http://127.0.0.1:" + testkit.FreePort(s.t) + "/bucket",
		"HUBCAP_S3_ACCESS_KEY=key", "HUBCAP_S3_SECRET_KEY=secret",
		"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_AUTH_LISTEN=127.0.0.1:0", "HUBCAP_AUTH_TLS_CERT_FILE=" + cert, "HUBCAP_AUTH_TLS_KEY_FILE=" + key,
		"HUBCAP_DATA_DIR=" + s.t.TempDir(), "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0", "HUBCAP_MAX_CONNECTIONS_PER_CLIENT=32",
	}
	for n, u := range [][]string{
		{"HOST=docker.io", "URL=" + s.hub.RegistryURL()},
		{"HOST=ghcr.io", "URL=http://" + "127.0.0.1:" + testkit.FreePort(s.t)},
		{"HOST=quay.io", "URL=" + s.hub.RegistryURL(), "USERNAME=box", "PASSWORD=wrong"},
	} {
		for _, setting := range append(u, "TOKEN_HOSTS="+token.Host, "PRIVATE_CIDRS=127.0.0.0/8") {
			environ = append(environ, fmt.Sprintf("HUBCAP_UPSTREAM_%d_%s", n, setting))
		}
	}
	log := s.start(testkit.Hubcap(s.t, "../.."), environ)
	s.eventually("hubcap is ready", func() bool {
		if at := readyLine.FindStringSubmatch(log.String()); at != nil {
			s.mirror, admin = at[1], at[2]
		}
		return admin != ""
	})
	return admin
}

// certificate writes a certificate of 127.0.0.1 and its key.
func (s *site) certificate() (cert, key string) {
	s.t.Helper()
	shown, secret, err := testkit.Certificate(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	if err != nil {
		s.t.Fatal(err)
	}
	return write(s.t, "cert.pem", shown), write(s.t, "key.pem", secret)
}

// traffic has the box do what its operator should see: downloads and hits, evictions, prefetching, a registry that is down,
// refused credentials, connections beyond the limit, and the end of the pull limit.
func (s *site) traffic() {
	s.t.Helper()
	for i := range uint64(pulls - 2) {
		repo := fmt.Sprintf("library/app%d", i)
		img := s.hub.Image(repo, "latest", fakehub.RandomBlob(3*i+1, 6<<20), fakehub.RandomBlob(3*i+2, 4<<20))
		for range 2 {
			s.get("/v2/" + repo + "/manifests/latest")
			s.get("/v2/" + repo + "/blobs/" + img.Layers[0].Digest.String())
		}
		time.Sleep(200 * time.Millisecond) // so that more than one scrape sees it
	}
	for i := range 4 {
		s.get(fmt.Sprintf("/v2/ghcr.io/owner/app%d/manifests/latest", i))
		s.get(fmt.Sprintf("/v2/quay.io/owner/app%d/manifests/latest", i))
	}
	for i := range uint64(pulls) {
		repo := fmt.Sprintf("library/more%d", i)
		s.hub.Image(repo, "latest", fakehub.RandomBlob(100+i, 1000))
		s.get("/v2/" + repo + "/manifests/latest")
	}
	for range 40 {
		conn, err := net.Dial("tcp", s.mirror)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = conn.Close() })
	}
	// Asked for, the look at all images comes at once, and not at its next turn.
	outage := exec.Command(testkit.Hubcap(s.t, "../.."), "outage", "--json")
	outage.Env = []string{"HUBCAP_ADMIN_SOCKET=" + s.socket}
	if out, err := outage.Output(); !json.Valid(out) {
		s.t.Errorf("hubcap outage: %v: %s", err, out)
	}
}

// get reads an answer of the box to its end, whatever it is, as dockerd would.
func (s *site) get(path string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.mirror+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "docker/20.10.24 go/go1.19.8")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		s.t.Errorf("%s: %v", path, err)
	}
}

// answered reports whether Prometheus answers a query with at least one number.
func (s *site) answered(query string) bool {
	resp, err := http.PostForm("http://"+s.prometheus+"/api/v1/query", url.Values{"query": {query}})
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []struct{ Value []any } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false
	}
	if answer.Error != "" {
		s.t.Errorf("%s: %s", query, answer.Error)
		return true
	}
	for _, series := range answer.Data.Result {
		// A pull of the drill is over ten minutes after its last request: until then the share of those that survive is 0 of 0.
		if len(series.Value) == 2 && (series.Value[1] != "NaN" || strings.Contains(query, "hubcap_outage_shadow_pulls_total")) {
			return true
		}
	}
	return false
}

// receive takes alerts from Alertmanager, by the path of their receiver.
func (s *site) receive(_ http.ResponseWriter, r *http.Request) {
	var message struct{ Alerts []notice }
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
		s.t.Errorf("Alertmanager's message: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	severity := strings.TrimPrefix(r.URL.Path, "/")
	s.received[severity] = append(s.received[severity], message.Alerts...)
}

// notices are what the receiver of a severity has got.
func (s *site) notices(severity string) []notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]notice(nil), s.received[severity]...)
}

func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(soon); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}
