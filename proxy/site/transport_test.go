package site

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// TestAuthoritiesChange: a box whose certificate is of an authority that is trusted from
// now on is asked at once.
func TestAuthoritiesChange(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = nil
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	s := New(options(func(o *Options) {
		o.Boxes = []*url.URL{nameOf(0, false), at}
		o.RootCAs = func() *x509.CertPool { return roots }
	}))
	defer s.Close()
	ask := func() error {
		_, _, err := s.greet(t.Context(), s.boxes[1], "livez")
		return err
	}
	if err := ask(); err == nil {
		t.Fatal("a certificate of an unknown authority is trusted")
	}
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	if err := ask(); err != nil {
		t.Errorf("after the authorities have changed: %v", err)
	}
}
