package site

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"

	"hubcap/proxy/upstream/network"
)

// Connections to boxes: they are near, so one that does not connect at once is dead.
const (
	connectWithin = time.Second
	idlePerBox    = 32
	idleFor       = 90 * time.Second
)

var errRedirect = errors.New("a box redirects, which no hubcap does")

// newClient returns what asks boxes. roots returns the trusted authorities, nil for the
// system's.
func newClient(roots func() *x509.CertPool) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
		Transport:     network.NewTransport(roots, newTransport),
	}
}

func newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: connectWithin, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: connectWithin,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: idlePerBox, IdleConnTimeout: idleFor, DisableCompression: true,
	}
}
