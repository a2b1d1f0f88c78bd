package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"hubcap/e2e/testkit"
)

// pair is the files of a certificate and its key. A nil one is for contenders without
// TLS.
type pair struct{ certificate, key string }

// newPair makes a certificate for loopback that vouches for itself.
func newPair(dir string) (p pair, err error) {
	certificate, key, err := testkit.Certificate(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	if err != nil {
		return p, err
	}
	p = pair{filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")}
	return p, errors.Join(os.WriteFile(p.certificate, certificate, 0o600), os.WriteFile(p.key, key, 0o600))
}

// scheme is how a contender's URL begins.
func (p *pair) scheme() string {
	if p == nil {
		return "http://"
	}
	return "https://"
}

// settings are hubcap's.
func (p *pair) settings() []string {
	if p == nil {
		return nil
	}
	return []string{"HUBCAP_TLS_CERT_FILE=" + p.certificate, "HUBCAP_TLS_KEY_FILE=" + p.key}
}

// flags are those of plain Go.
func (p *pair) flags() []string {
	if p == nil {
		return nil
	}
	return []string{"-certificate", p.certificate, "-key", p.key}
}

// nginx is what follows the address in nginx's listen line, without the last semicolon.
// Go chooses the same cipher by itself where processors have AES.
func (p *pair) nginx() string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf(` ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256`, p.certificate, p.key)
}

// anyCertificate is the TLS of clients, which do not look whose certificate they get.
// Of the ways to agree on a key, they offer the one that all contenders know.
func anyCertificate() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}
}

// buffered is a connection of which much is read at a time: crypto/tls itself reads
// hardly more than a record, which would cost the client as much as a server.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// secure begins TLS on a connection, and closes it if that is not what is to be measured.
func secure(conn net.Conn, config *tls.Config) (*tls.Conn, error) {
	c := tls.Client(conn, config)
	err := c.Handshake()
	if cipher := c.ConnectionState().CipherSuite; err == nil && cipher != tls.TLS_AES_128_GCM_SHA256 {
		err = fmt.Errorf("the cipher is %s", tls.CipherSuiteName(cipher))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// overTLS calls f while the contenders speak TLS.
func (b *bench) overTLS(f func() error) error {
	b.secured = &b.pair
	defer func() { b.secured = nil }()
	return f()
}

func warmLayersOverTLS(b *bench) ([]row, error) {
	rows := collected(
		row{what: "warm layers of 64 MiB over TLS, 8 connections", unit: "MiB/s", to: nginxFilesName, must: "≥ 1.1"},
		row{what: "the same: CPU of the server a GiB", unit: "s", to: plainName, must: "≤ 0.9"})
	return rows, b.overTLS(func() error { return b.heldLayers(rows, warmFew...) })
}

// warmManifestOverTLS is a manifest by its tag over a new connection for each request:
// with all that TLS has to agree on, and with what an earlier connection agreed on.
func warmManifestOverTLS(b *bench) ([]row, error) {
	rows := collected(
		row{what: "warm manifest by tag over TLS, a connection each, full handshake: CPU of the server", unit: "µs", to: plainName, must: "≤ 0.9"},
		row{what: "the same, resumed", unit: "µs", to: plainName, must: "≤ 0.8"})
	b.upstream(0, 0, 0)
	return rows, b.overTLS(func() error {
		for range b.reps {
			if err := b.each(func(c *contender) error { return b.handshakes(c, rows) }, warmFew...); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) handshakes(c *contender, rows []row) error {
	const connections, requests = 64, 64 * 100
	path, err := b.heldManifest(c)
	if err != nil {
		return err
	}
	resumed, err := c.resumingDialer(path)
	if err != nil {
		return err
	}
	for i, dial := range []dialer{c.dialer(path, smallBuffer), resumed} {
		before := c.cpu()
		if _, err := load(dial, connections, requests, 1); err != nil {
			return err
		}
		rows[i].add(c, float64((c.cpu()-before).Microseconds())/requests)
	}
	return nil
}

// resumingDialer makes clients that resume the session of the one before, and a first
// one for them.
func (c *contender) resumingDialer(path string) (dialer, error) {
	config := anyCertificate()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	dial := c.dialerOver(config, path, smallBuffer)
	first, err := dial()
	if err != nil {
		return nil, err
	}
	if _, err := first.getEach(1); err != nil {
		return nil, err
	}
	return func() (*raw, error) {
		r, err := dial()
		if err == nil && !r.conn.(*tls.Conn).ConnectionState().DidResume {
			err = errors.Join(errors.New("the session was not resumed"), r.conn.Close())
		}
		return r, err
	}, nil
}
