package setup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issued is a certificate and its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (i issued) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

// issue makes a certificate that by has signed; it signs itself when by is zero.
func issue(t *testing.T, name string, ca bool, by issued) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"berlin.lan"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
	}
	if by.cert == nil {
		by = issued{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued{cert, key}
}

func TestAuthority(t *testing.T) {
	root := issue(t, "root", true, issued{})
	other := issue(t, "other root", true, issued{})
	between := issue(t, "between", true, root)
	leaf, direct := issue(t, "leaf", false, between), issue(t, "leaf", false, root)
	alone := issue(t, "alone", false, issued{})
	for _, tc := range []struct {
		name     string
		cert, ca []issued
		want     issued // zero: none
	}{
		{"the root is with the certificate", []issued{leaf, between, root}, nil, root},
		{"the root is the site's authority", []issued{leaf, between}, []issued{other, root}, root},
		{"the root has signed the leaf itself", []issued{direct}, []issued{root}, root},
		{"the certificate signed itself", []issued{alone}, nil, alone},
		{"a public authority, or one that is not here", []issued{leaf, between}, []issued{other}, issued{}},
		{"no certificate", nil, []issued{root}, issued{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			write := func(name string, all []issued) string {
				var content []byte
				for _, one := range all {
					content = append(content, one.pem()...)
				}
				file := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
				return file
			}
			got := Authority(write("cert.pem", tc.cert), write("ca.pem", tc.ca))
			if tc.want.cert == nil && got != nil || tc.want.cert != nil && !bytes.Equal(got, tc.want.pem()) {
				t.Errorf("got %s", got)
			}
		})
	}
	if got := Authority("", "/does/not/exist"); got != nil {
		t.Errorf("got %s", got)
	}
}

// TestCertifiedName has clients use a name that they can check.
func TestCertifiedName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, issue(t, "leaf", false, issued{}).pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ file, host, want string }{
		{file, "Berlin.lan", "Berlin.lan"}, {file, "vm", "berlin.lan"}, {file, "10.1.2.3", "berlin.lan"}, {"", "vm", "vm"},
	} {
		if got := CertifiedName(tc.file, tc.host); got != tc.want {
			t.Errorf("%q, %s: %s, want %s", tc.file, tc.host, got, tc.want)
		}
	}
}

// TestAuthorityIsOffered has the page link to it, and tell it by the
// fingerprint that openssl prints. The key stays where it is.
func TestAuthorityIsOffered(t *testing.T) {
	alone := issue(t, "alone", false, issued{})
	p, _, _ := newPage(t)
	if status, _, _ := ask(p, "berlin.lan", "/setup?ca"); status != http.StatusNotFound {
		t.Errorf("without one: %d", status)
	}
	p.Mirrors.CertFile = filepath.Join(t.TempDir(), "cert.pem")
	key, err := x509.MarshalPKCS8PrivateKey(alone.key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), alone.pem()...)
	if err := os.WriteFile(p.Mirrors.CertFile, both, 0o600); err != nil {
		t.Fatal(err)
	}
	status, header, body := ask(p, "berlin.lan", "/setup?ca", secured)
	if status != http.StatusOK || header.Get("Content-Type") != "application/x-x509-ca-cert" || body != string(alone.pem()) {
		t.Errorf("%d %v\n%s", status, header, body)
	}
	_, _, body = ask(p, "berlin.lan", "/setup", secured)
	text := checkHTML(t, body)
	fingerprint := Box{CA: alone.pem()}.Fingerprint()
	if !strings.Contains(body, `<a href="?ca" download="hubcap.crt">`) || !strings.Contains(text, fingerprint) || len(fingerprint) != 32*3-1 {
		t.Errorf("the page does not offer it with %s:\n%s", fingerprint, text)
	}
	if _, _, body = ask(p, "berlin.lan", "/setup"); strings.Contains(body, "hubcap.crt") {
		t.Error("a client of a plain port is offered it")
	}
}
