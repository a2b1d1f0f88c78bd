package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	"hubcap/e2e/testkit"
)

// recorder is a server that remembers everything it was sent.
type recorder struct {
	*httptest.Server
	mu          sync.Mutex
	connections int
	requests    []string
	answer      http.HandlerFunc // set before the first request
}

// newRecorder starts a recorder on an address of loopback. To a client each
// address is another host.
func newRecorder(t *testing.T, ip string, answer http.HandlerFunc) *recorder {
	t.Helper()
	w := unstarted(t, ip, answer)
	w.Start()
	return w
}

func newTLSRecorder(t *testing.T, ip string, answer http.HandlerFunc) *recorder {
	t.Helper()
	w := unstarted(t, ip, answer)
	w.TLS = &tls.Config{Certificates: []tls.Certificate{loopbackCertificate()}}
	w.StartTLS()
	return w
}

// loopbackCertificate is valid for every address that recorders listen on;
// httptest's is for one only.
var loopbackCertificate = sync.OnceValue(func() tls.Certificate { return certificate(func(*x509.Certificate) {}) })

// certificate returns one that is valid for every address that recorders listen
// on, changed by change.
func certificate(change func(*x509.Certificate)) tls.Certificate {
	cert, key, err := testkit.Certificate(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid = true, true
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)}
		change(c)
	})
	if err != nil {
		panic(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		panic(err)
	}
	return pair
}

func unstarted(t *testing.T, ip string, answer http.HandlerFunc) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	w := &recorder{answer: answer}
	w.Server = httptest.NewUnstartedServer(w)
	w.Listener.Close()
	w.Listener = l
	w.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that a test wants to fail
	w.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			w.mu.Lock()
			w.connections++
			w.mu.Unlock()
		}
	}
	t.Cleanup(w.Close)
	return w
}

func (w *recorder) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	dump, err := httputil.DumpRequest(r, true)
	if err != nil {
		dump = append(dump, err.Error()...)
	}
	w.mu.Lock()
	w.requests = append(w.requests, string(dump))
	w.mu.Unlock()
	w.answer(rw, r)
}

// all returns what was received so far.
func (w *recorder) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.requests, "\n")
}

// count returns the number of requests.
func (w *recorder) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.requests)
}

// dialled returns the number of connections.
func (w *recorder) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connections
}

// port returns the port of the recorder.
func (w *recorder) port() string {
	_, port, _ := net.SplitHostPort(w.Listener.Addr().String())
	return port
}

// believing has a client trust the certificates of TLS recorders.
func believing(t *testing.T, recorders ...*recorder) change {
	t.Helper()
	var all []byte
	for _, w := range recorders {
		if c := w.Certificate(); c != nil {
			all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return trusted(t, all)
}
