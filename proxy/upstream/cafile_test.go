package upstream

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/upstream/network"
)

// caFile is a file whose modification time changes at each write, however coarse
// the clock of the file system is.
type caFile struct {
	t    *testing.T
	path string
	time time.Time
}

func (f *caFile) write(content []byte) {
	f.t.Helper()
	f.time = f.time.Add(time.Second)
	if err := errors.Join(os.WriteFile(f.path, content, 0o600), os.Chtimes(f.path, f.time, f.time)); err != nil {
		f.t.Fatal(err)
	}
}

// TestReplacedCAFile: changed authorities are trusted from the next request on,
// and connections made under the previous ones are not used any more. A file
// that cannot be used changes nothing and is logged once.
func TestReplacedCAFile(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{TLS: true, Anonymous: true})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	other := fakehub.Start(t, fakehub.Options{TLS: true})
	own := &caFile{t: t, path: filepath.Join(t.TempDir(), "ca.pem"), time: time.Now()}
	own.write(other.CAPEM())
	file, err := network.ReadCAFile(own.path)
	if err != nil {
		t.Fatal(err)
	}
	clock := testkit.NewClock(time.Now())
	client := newFixture(t, hub.RegistryURL(), func(o *Options) { o.CAFiles, o.Now = []*network.CAFile{file}, clock.Now })
	works := func(want bool, when string) {
		t.Helper()
		clock.Advance(time.Second) // when the file is looked at again
		err := client.head(within(t))
		if (err == nil) != want || err != nil && !errors.As(err, new(*tls.CertificateVerificationError)) {
			t.Errorf("%s: %v; want it to work: %t", when, err, want)
		}
	}
	works(false, "another's authority")
	own.write(hub.CAPEM())
	works(true, "the registry's own")
	own.write([]byte("no certificate"))
	works(true, "a broken file")
	works(true, "a broken file, again")
	if err := os.Remove(own.path); err != nil {
		t.Fatal(err)
	}
	works(true, "no file")
	works(true, "no file, again")
	if n := strings.Count(client.log.String(), "cannot be used"); n != 2 {
		t.Errorf("two files that cannot be used are logged %d times:\n%s", n, client.log)
	}
	own.write(other.CAPEM())
	works(false, "another's authority, after a connection was made under the first")
	own.write(append(other.CAPEM(), hub.CAPEM()...))
	works(true, "both")
}

// TestCAFileIsShared: registries that share a file see each change, and it is
// logged once.
func TestCAFileIsShared(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{TLS: true, Anonymous: true})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	shared := &caFile{t: t, path: filepath.Join(t.TempDir(), "ca.pem"), time: time.Now()}
	shared.write(fakehub.Start(t, fakehub.Options{TLS: true}).CAPEM())
	file, err := network.ReadCAFile(shared.path)
	if err != nil {
		t.Fatal(err)
	}
	shared.write(hub.CAPEM())
	first := newFixture(t, hub.RegistryURL(), func(o *Options) { o.CAFiles = []*network.CAFile{file} })
	second := newFixture(t, hub.RegistryURL(), func(o *Options) { o.CAFiles = []*network.CAFile{file} })
	if err := errors.Join(first.head(within(t)), second.head(within(t))); err != nil {
		t.Error(err)
	}
	if n := strings.Count(first.log.String()+second.log.String(), "is trusted from now on"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}
