package port

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/logging"
)

// TestTLSToPlainPort shows that a client that speaks TLS to a port without TLS is
// noticed with its address, in one line of the log a minute, and that requests
// and connections without a request are not taken for it.
func TestTLSToPlainPort(t *testing.T) {
	log, clock := new(testkit.Log), testkit.NewClock(time.Unix(1e9, 0))
	c := newCrowd(t, 64, 64, func(o *Options, _ *LimitsOptions) {
		o.Log, o.Now = slog.New(slog.NewTextHandler(log, nil)), clock.Now
	})
	c.plain.wait = 0
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
	noticed := func() bool { s := c.Status(); return s.TLSClient.String() == one && s.TLSAt.Equal(clock.Now()) }
	for range 3 {
		shake()
		eventually(t, "it is noticed", noticed)
		clock.Advance(time.Second)
	}
	if n := strings.Count(log.String(), told); n != 1 {
		t.Errorf("logged %d times in a minute:\n%s", n, log)
	}
	clock.Advance(time.Minute)
	shake()
	eventually(t, "it is noticed again", noticed)
	eventually(t, "it is logged again", func() bool { return strings.Count(log.String(), told) == 2 })
}

// TestFallBackToPlain shows that a client that speaks plain HTTP soon after a
// handshake has made no mistake, whoever else speaks TLS only, and that few
// clients are waited for.
func TestFallBackToPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plain{now: time.Now, log: slog.New(slog.DiscardHandler), warned: new(logging.Throttle), wait: fallBack, trying: make(map[netip.Addr]*time.Timer)}
		falls, stays := netip.MustParseAddr("10.1.2.8"), netip.MustParseAddr("10.1.2.9")
		p.heard(falls, handshake)
		time.Sleep(fallBack - time.Second)
		p.heard(falls, 'G')
		time.Sleep(fallBack)
		if client, _ := p.last(); client.IsValid() {
			t.Fatalf("%v is taken for a client that speaks TLS only", client)
		}
		began := time.Now()
		p.heard(stays, handshake)
		p.heard(falls, handshake)
		p.heard(falls, 'G')
		time.Sleep(fallBack + time.Second)
		if client, at := p.last(); client != stays || at.Sub(began) != fallBack {
			t.Errorf("%v after %v", client, at.Sub(began))
		}
		for client, n := falls, 0; n < 2*maxTrying; client, n = client.Next(), n+1 {
			p.heard(client, handshake)
		}
		waitedFor := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.trying)
		}
		if n := waitedFor(); n != maxTrying {
			t.Errorf("%d clients are waited for", n)
		}
		time.Sleep(2 * fallBack)
		if n := waitedFor(); n != 0 {
			t.Errorf("%d clients stay in memory", n)
		}
	})
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
