package port

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

// pair writes a certificate of that name, and its key.
func pair(t testing.TB, certFile, keyFile, name string, expires time.Time) {
	t.Helper()
	cert, key, err := testkit.Certificate(func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotAfter, c.IPAddresses = name, expires, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	must(t, err)
	write(t, certFile, cert)
	write(t, keyFile, key)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a file that looks changed, however coarse the system's clock is.
func write(t testing.TB, name string, content []byte) {
	t.Helper()
	before, err := os.Stat(name)
	must(t, os.WriteFile(name, content, 0o600))
	if err == nil {
		must(t, os.Chtimes(name, time.Time{}, before.ModTime().Add(time.Second)))
	}
}

// rig is a port with TLS whose files can be changed.
type rig struct {
	*Port
	cert, key string
	log       *testkit.Log
	now       atomic.Int64 // nanoseconds since 1970
}

func newRig(t testing.TB, handler ...http.HandlerFunc) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), log: new(testkit.Log)}
	pair(t, r.cert, r.key, "first", time.Now().Add(time.Hour))
	r.now.Store(time.Now().UnixNano())
	var err error
	o := r.options()
	for _, h := range handler {
		o.Handler = h
	}
	r.Port, err = Listen(o)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- r.Serve() }()
	t.Cleanup(func() {
		r.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) options() Options {
	return Options{
		Name: "mirror", Now: func() time.Time { return time.Unix(0, r.now.Load()) },
		Address: "127.0.0.1:0", CertFile: r.cert, KeyFile: r.key,
		HeadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeader: 16 << 10,
		Limits:  NewLimits(LimitsOptions{Total: 64, PerClient: 64, Waiting: 64, Now: time.Now, Metrics: metrics.New().Ports, Log: slog.New(slog.DiscardHandler)}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.Proto) }),
		Metrics: metrics.New().Ports, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	}
}

// dial connects when the files may be looked at again, and tells whose
// certificate was shown.
func (r *rig) dial(t *testing.T, protocols ...string) (*tls.Conn, string) {
	t.Helper()
	r.now.Add(int64(lookEvery))
	conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn, conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func ask(t *testing.T, conn net.Conn) string {
	t.Helper()
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// shows fails unless a new connection is shown the certificate of that name.
func (r *rig) shows(t *testing.T, name string) {
	t.Helper()
	if _, got := r.dial(t); got != name {
		t.Errorf("the certificate is that of %q, want %q", got, name)
	}
}

func TestCertificateIsRotated(t *testing.T) {
	r := newRig(t)
	old, name := r.dial(t, "h2", "http/1.1")
	if name != "first" || ask(t, old) != "HTTP/1.1" || old.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Fatalf("%s, %s", name, old.ConnectionState().NegotiatedProtocol)
	}
	pair(t, r.cert, r.key, "second", time.Now().Add(time.Hour))
	r.shows(t, "second")
	if ask(t, old) != "HTTP/1.1" {
		t.Error("a connection that stood was dropped")
	}
}

// TestBadCertificateIsNotTaken keeps the one before, and tells once.
func TestBadCertificateIsNotTaken(t *testing.T) {
	for name, damage := range map[string]func(r *rig){
		"garbage":        func(r *rig) { write(t, r.cert, []byte("garbage")) },
		"no key":         func(r *rig) { must(t, os.Remove(r.key)) },
		"another's key":  func(r *rig) { pair(t, filepath.Join(t.TempDir(), "c"), r.key, "other", time.Now().Add(time.Hour)) },
		"an empty file":  func(r *rig) { write(t, r.cert, nil) },
		"no certificate": func(r *rig) { must(t, os.Remove(r.cert)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			damage(r)
			for range 3 {
				r.shows(t, "first")
			}
			if n := strings.Count(r.log.String(), "the current one stays"); n != 1 {
				t.Errorf("it is told %d times", n)
			}
			pair(t, r.cert, r.key, "third", time.Now().Add(time.Hour))
			r.shows(t, "third")
		})
	}
}

func TestListenRefuses(t *testing.T) {
	r := newRig(t)
	o := r.options()
	o.KeyFile = filepath.Join(t.TempDir(), "none")
	if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), o.KeyFile) {
		t.Errorf("without a key: %v", err)
	}
	o = r.options()
	o.Address = r.Addr().String()
	if _, err := Listen(o); err == nil {
		t.Error("the address is taken twice")
	}
	pair(t, r.cert, r.key, "old", time.Now().Add(-time.Minute))
	p, err := Listen(r.options())
	must(t, err)
	p.Close()
	if !strings.Contains(r.log.String(), "has expired") {
		t.Errorf("nobody is told of an old certificate: %s", r.log)
	}
	if _, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// TestPanic costs one connection, and is one line of the log; an answer that is
// cut on purpose is none.
func TestPanic(t *testing.T) {
	log := new(testkit.Log)
	c := newCrowd(t, 64, 64, func(o *Options, _ *LimitsOptions) {
		o.Log = slog.New(slog.NewJSONHandler(log, nil))
		o.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/abort" {
				panic(http.ErrAbortHandler)
			}
			panic("a bug\nof two lines")
		})
	})
	for _, path := range []string{"/bug", "/abort"} {
		conn := c.connect(one)
		conn.ask(path)
		if got := conn.status(); got != 0 {
			t.Errorf("%s is answered %d", path, got)
		}
	}
	var line struct{ Level, Path, Panic, Stack string }
	if err := json.Unmarshal([]byte(log.String()), &line); err != nil || line.Level != "ERROR" || line.Path != "/bug" || line.Panic != "a bug\nof two lines" || !strings.Contains(line.Stack, "TestPanic") {
		t.Errorf("%v; want one line with the panic and where it was:\n%s", err, log)
	}
}
