package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hubcap/proxy/config"
)

// shortDir returns a directory whose name leaves room for that of a socket, which
// is at most 108 bytes long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hubcap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// getAt asks a socket for a path.
func getAt(t *testing.T, socket, path string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://hubcap" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content)
}

// TestSocket asks a box at its socket, without a token, after a run that has left
// its socket behind.
func TestSocket(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "admin.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true")
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, one := range []string{"/api/v1/status", "/admin/config", "/metrics"} {
		if status, body := getAt(t, path, one); status != 200 {
			t.Errorf("%s: %d %s", one, status, body)
		}
	}
	if status, _, _ := b.get(b.admin, "/api/v1/status"); status != 401 {
		t.Errorf("%d at the port without a token", status)
	}
	b.cancel()
	if err := b.wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestWithoutASocket starts where there can be no socket: it is off, its name is
// too long, a file or another process has its place.
func TestWithoutASocket(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(dir, "taken")
	other, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for path, warns := range map[string]bool{
		"off": false, file: true, taken: true, filepath.Join(dir, strings.Repeat("x", 200)): true, filepath.Join(dir, "none", "admin.sock"): true,
	} {
		b := start(t, "HUBCAP_ADMIN_SOCKET="+path, "HUBCAP_OFFLINE=true")
		if got := b.line("there is no socket for hubcap's commands; they need HUBCAP_URL and HUBCAP_TOKEN, or another HUBCAP_ADMIN_SOCKET") != nil; got != warns {
			t.Errorf("%s: warned is %v", path, got)
		}
		b.cancel()
		_ = b.wait()
	}
	if content, _ := os.ReadFile(file); string(content) != "precious" {
		t.Error("the file is gone")
	}
	if conn, err := net.Dial("unix", taken); err != nil {
		t.Error("the other process's socket is gone:", err)
	} else {
		_ = conn.Close()
	}
}

// certificate writes a certificate and its key into files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert"), filepath.Join(dir, "key")
}

// TestAdminTLS asks at an admin port with a certificate, and shows which
// addresses are warned about without one.
func TestAdminTLS(t *testing.T) {
	cert, key := certificate(t)
	dir := t.TempDir()
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_ADMIN_TLS_CERT_FILE="+cert, "HUBCAP_ADMIN_TLS_KEY_FILE="+key, "HUBCAP_OFFLINE=true")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + b.admin + "/livez")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	for address, warns := range map[string]bool{"127.0.0.1:1": false, "[::1]:1": false, "localhost:1": false, ":1": true, "0.0.0.0:1": true, "192.0.2.1:1": true} {
		c, err := config.Load([]string{"HUBCAP_ADMIN_LISTEN=" + address})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(c.Warnings, "\n"), "unencrypted"); got != warns {
			t.Errorf("%s: warned is %v", address, got)
		}
	}
}
