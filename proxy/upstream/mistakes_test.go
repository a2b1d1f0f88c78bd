package upstream

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/advice"
)

// TestPrivateAddressIsExplained shows that the error of a request names the
// host, its address and the variable that allows it.
func TestPrivateAddressIsExplained(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	_, err := newFixture(t, hub.RegistryURL(), reaching()).HeadManifest(within(t), repo, "latest")
	if e := wantKind(t, err, Refused); !strings.Contains(e.Error(), advice.PrivateAddress("127.0.0.1", netip.MustParseAddr("127.0.0.1"))) {
		t.Errorf("a request: %v", err)
	}
}

// TestUnknownAuthorityIsExplained shows that the error names the host and the
// authority of its certificate, and still is what crypto/x509 has returned.
func TestUnknownAuthorityIsExplained(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{TLS: true})
	_, err := newFixture(t, hub.RegistryURL()).HeadManifest(within(t), repo, "latest")
	e := wantKind(t, err, Unreachable)
	host := strings.TrimPrefix(hub.RegistryURL(), "https://")
	if !strings.Contains(e.Error(), host+" shows a certificate of \"") || !strings.Contains(e.Error(), "unknown here: HUBCAP_CA_FILE=") || !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Error(err)
	}
}

// TestRefusedLoginIsExplained shows what the log says of a wrong password, with
// the limit that holds without it, and that the status keeps the refusal.
func TestRefusedLoginIsExplained(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: "another"}, RateLimit: 100})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	client := withStandIn(t, hub.RegistryURL(), trusting(t, hub.TokenURL()), withCredentials)
	if _, err := client.HeadManifest(within(t), repo, "latest"); err != nil { // which states the limit
		t.Fatal(err)
	}
	if s := client.Status().Identities[0].Credentials; s == nil || s.RefusedAt.IsZero() {
		t.Errorf("status: %+v", s)
	}
	text := advice.LoginRefused(advice.Login{Registry: "registry.test", Limit: -1})
	if !strings.Contains(client.log.String(), text) {
		t.Errorf("want %q:\n%s", text, client.log)
	}
}
