package e2e

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// loginBox is where clients log in.
const loginBox = boxName + ":5443"

// logins pull through the port where clients log in, with a name and a password.
var logins = []struct {
	client string
	chart  bool // it pulls that, and no image
	pull   func(t *testing.T, s *site, i *image, user, password string) error
}{
	{"crane", false, func(t *testing.T, s *site, i *image, user, password string) error {
		c := crane{newTool(t, s, loginBox), "crane pull " + loginBox + exampleImage + " image.tar"}
		if _, err := run(c.ns, c.command("crane", "auth", "login", loginBox, "-u", user, "-p", password)); err != nil {
			return err
		}
		return c.pull(i)
	}},
	{"podman", false, func(t *testing.T, s *site, i *image, user, password string) error {
		p := startPodman(t, s, "").(podman)
		if _, err := run(p.ns, p.podman("pull", "--quiet", "--creds", user+":"+password, loginBox+"/"+i.path())); err != nil {
			return err
		}
		return p.holds(i.root.Digest, p.podman("image", "inspect", "--format", "{{.RepoDigests}}", loginBox+"/"+i.path()))
	}},
	{"skopeo", false, func(t *testing.T, s *site, i *image, user, password string) error {
		k := skopeo{newTool(t, s, "")}
		out := k.path("image")
		if _, err := run(k.ns, k.command("skopeo", "--insecure-policy", "copy", "--quiet", "--src-creds", user+":"+password,
			"docker://"+loginBox+"/"+i.path(), "dir:"+out)); err != nil {
			return err
		}
		files := map[string]digest.Digest{"manifest.json": i.child.Digest}
		for _, blob := range i.pulled() {
			files[blob.Digest.Encoded()] = blob.Digest
		}
		return checkFiles(out, files)
	}},
	{"ctr", false, func(t *testing.T, s *site, i *image, user, password string) error {
		c := startContainerd(t, s, "")
		name := loginBox + "/" + i.path()
		if _, err := run(c.ns, c.ctr("images", "pull", "--snapshotter", "native", "--platform", "linux/"+runtime.GOARCH, "--user", user+":"+password, name)); err != nil {
			return err
		}
		return c.holds(i.root.Digest, c.ctr("images", "ls", "name=="+name))
	}},
	{"helm", true, func(t *testing.T, s *site, i *image, user, password string) error {
		h := helm{newTool(t, s, loginBox), straightHelm}
		if _, err := run(h.ns, h.command(installed("helm"), "registry", "login", loginBox, "-u", user, "-p", password)); err != nil {
			return err
		}
		return h.fetch(i, loginBox+"/"+i.path())
	}},
}

// TestClientsLogIn pulls a private image with real clients: who may have it gets it, its layers come once for all of them, and who may
// not gets nothing although it is held.
func TestClientsLogIn(t *testing.T) {
	i, chart := multiArchImage(), chartOf("charts/demo")
	s := newSite(t, i, chart)
	s.hub.Set(func(o *fakehub.Options) {
		o.Users = map[string]string{"alice": "alices-password", "bob": "bobs-password"}
	})
	s.hub.SetPrivate(i.repository, "alice")
	s.hub.SetPrivate(chart.repository, "alice")
	cert, key := s.certify(t)
	h := s.startHubcap(t, scratch(t), longTTL, "HUBCAP_UPSTREAM_0_VISIBILITY=passthrough",
		"HUBCAP_AUTH_LISTEN=127.0.0.1:5443", "HUBCAP_AUTH_TLS_CERT_FILE="+cert, "HUBCAP_AUTH_TLS_KEY_FILE="+key)
	pulled := map[*image]bool{} // by a client that is installed
	for _, one := range logins {
		t.Run(one.client, func(t *testing.T) {
			clientNamed(t, one.client)
			i := i
			if one.chart {
				i = chart
			}
			pulled[i] = true
			if err := one.pull(t, s, i, "alice", "alices-password"); err != nil {
				t.Errorf("alice: %v", err)
			}
			for user, password := range map[string]string{"bob": "bobs-password", "alice": "wrong"} {
				if err := one.pull(t, s, i, user, password); err == nil {
					t.Errorf("%s with the password %q gets the image", user, password)
				}
			}
		})
	}
	for _, r := range s.hub.Log() {
		if r.Role != fakehub.RoleToken && !strings.HasPrefix(r.UserAgent, "hubcap/") {
			t.Errorf("went around hubcap: %s", describe([]fakehub.Request{r}))
		}
	}
	for i := range pulled {
		for _, blob := range i.pulled() {
			fromStart := func(r *fakehub.Request) bool { return r.Offset == 0 }
			if n := s.hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(blob.Digest), fromStart); n != 1 {
				t.Errorf("%s came %d times", blob.Digest, n)
			}
		}
	}
	if n := s.hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("%d requests brought credentials to the CDN", n)
	}
	for _, secret := range []string{"alices-password", "bobs-password"} {
		if strings.Contains(string(h.log.Bytes()), secret) {
			t.Errorf("%s is in hubcap's log", secret)
		}
	}
}

// certify makes a certificate of the box's name, which the site's clients trust from now on.
func (s *site) certify(t *testing.T) (cert, key string) {
	t.Helper()
	cert, key = newCertificate(t)
	trusted, err := os.ReadFile(s.caFile)
	own, ownErr := os.ReadFile(cert)
	if err := errors.Join(err, ownErr, os.WriteFile(s.caFile, append(trusted, own...), 0o644)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// newCertificate makes a certificate of the box's name, which has signed itself.
func newCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	shown, secret, err := testkit.Certificate(func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.IsCA, c.BasicConstraintsValid = boxName, []string{boxName}, true, true
	})
	dir := scratch(t)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(err, os.WriteFile(cert, shown, 0o600), os.WriteFile(key, secret, 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}
