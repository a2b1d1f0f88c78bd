package port

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// TestTLSToPlainPort shows that a TLS handshake at a port without TLS is noticed
// with its client's address, in one line of the log a minute, and that requests
// and connections without a request are not taken for one.
func TestTLSToPlainPort(t *testing.T) {
	log, clock := new(testkit.Log), testkit.NewClock(time.Unix(1e9, 0))
	c := newCrowd(t, 64, 64, func(o *Options, _ *LimitsOptions) {
		o.Log, o.Now = slog.New(slog.NewTextHandler(log, nil)), clock.Now
	})
	conn := c.connect(one)
	conn.ask("/")
	if conn.status() != 200 || c.Status().TLSClient.IsValid() {
		t.Fatalf("a request is taken for TLS: %+v", c.Status())
	}
	shake := func() {
		if _, err := tls.Dial("tcp", c.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
			t.Fatal("TLS is spoken")
		}
	}
	const told = `127.0.0.1 speaks TLS to the plain port: \"insecure-registries\" there, or HUBCAP_TLS_CERT_FILE here`
	for range 3 {
		shake()
	}
	if n := strings.Count(log.String(), told); n != 1 {
		t.Errorf("logged %d times in a minute:\n%s", n, log)
	}
	clock.Advance(time.Minute)
	shake()
	if n := strings.Count(log.String(), told); n != 2 {
		t.Errorf("logged %d times in two minutes", n)
	}
	if s := c.Status(); s.TLSClient != netip.MustParseAddr("127.0.0.1") || !s.TLSAt.Equal(clock.Now()) {
		t.Errorf("status: %+v", s)
	}
}

// TestCertificateStatus shows that a new certificate that cannot be used is in
// the status until one can be.
func TestCertificateStatus(t *testing.T) {
	r := newRig(t)
	if s := r.Status(); s.Certificate == nil || s.Certificate.File != r.cert || s.Certificate.Failure != "" || time.Until(s.Certificate.Expires) > time.Hour {
		t.Fatalf("%+v", s.Certificate)
	}
	write(t, r.cert, []byte("garbage"))
	r.shows(t, "first")
	if s := r.Status(); s.Certificate.Failure == "" {
		t.Errorf("the failure is missing: %+v", s.Certificate)
	}
	pair(t, r.cert, r.key, "second", time.Now().Add(time.Hour))
	r.shows(t, "second")
	if s := r.Status(); s.Certificate.Failure != "" {
		t.Errorf("the failure stays: %+v", s.Certificate)
	}
}
