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

const (
	idlePerBox = 32
	idleFor    = 90 * time.Second
)

var errRedirect = errors.New("a box redirects, which no hubcap does")

// newClient returns what asks boxes.
func newClient(o Options) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
		Transport:     network.NewTransport(o.RootCAs, o.newTransport),
	}
}

func (o *Options) newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: o.BoxTime, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: o.BoxTime,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: idlePerBox, IdleConnTimeout: idleFor, DisableCompression: true,
	}
}
