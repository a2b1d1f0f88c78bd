package network

import (
	"crypto/x509"
	"net/http"
	"sync"
)

// Transport is an http.RoundTripper that sends requests under the authorities that are
// trusted now. Running requests keep their connections when these change; later ones get
// none that was made under the previous authorities.
type Transport struct {
	roots func() *x509.CertPool
	under func(roots *x509.CertPool) *http.Transport

	mu      sync.Mutex
	trusted *x509.CertPool  // by current
	current *http.Transport // nil before the first request
}

// NewTransport returns a Transport without connections. roots returns the trusted
// authorities, the same pool until they change, nil for the system's; under returns what
// sends requests under them.
func NewTransport(roots func() *x509.CertPool, under func(roots *x509.CertPool) *http.Transport) *Transport {
	return &Transport{roots: roots, under: under}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.now().RoundTrip(req)
}

// CloseIdleConnections closes the connections that are not in use. http.Client's method
// of that name calls it.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.CloseIdleConnections()
	}
}

func (t *Transport) now() *http.Transport {
	roots := t.roots()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil && roots == t.trusted {
		return t.current
	}
	if t.current != nil {
		defer t.current.CloseIdleConnections() // also those that become idle later
	}
	t.trusted, t.current = roots, t.under(roots)
	return t.current
}
