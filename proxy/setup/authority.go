package setup

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
)

// Authority returns the PEM of the certificate that clients have to trust
// before they trust the certificate in certFile: a certificate that signed
// itself, of certFile or of caFile, to which a chain leads. It is nil if there
// is none, as where a public authority has signed. caFile may be empty. Both are
// read each time: they may change under a running box.
func Authority(certFile, caFile string) []byte {
	own := readCertificates(certFile)
	if len(own) == 0 {
		return nil
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range append(own, readCertificates(caFile)...) {
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			roots.AddCert(c)
		} else {
			intermediates.AddCert(c)
		}
	}
	chains, err := own[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil
	}
	anchor := chains[0][len(chains[0])-1]
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchor.Raw})
}

// CertifiedName returns the name under which clients accept the certificate in
// certFile: host, if they do, or else its first name that is no pattern. It is
// host where there is none.
func CertifiedName(certFile, host string) string {
	own := readCertificates(certFile)
	if len(own) == 0 || own[0].VerifyHostname(host) == nil {
		return host
	}
	for _, name := range own[0].DNSNames {
		if !isPattern(name) {
			return name
		}
	}
	return host
}

// readCertificates returns the certificates of a PEM file; none if it cannot be
// read.
func readCertificates(file string) (all []*x509.Certificate) {
	if file == "" {
		return nil
	}
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
}

// Fingerprint returns the SHA-256 of the authority's certificate, as openssl
// prints it; empty without an authority.
func (b Box) Fingerprint() string {
	block, _ := pem.Decode(b.CA)
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}
