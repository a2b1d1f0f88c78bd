package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
	"hubcap/proxy/advice"
	"hubcap/proxy/server"
)

const canary = "canary-93d0c2"

// patient is a configuration of a fakehub as Docker Hub, and a proxy for all
// other registries that lets nothing through, so that none is asked.
type patient struct {
	t       *testing.T
	hub     *fakehub.Hub
	environ map[string]string
	o       Options
}

func newPatient(t *testing.T, o fakehub.Options) *patient {
	t.Helper()
	hub := fakehub.Start(t, o)
	hub.Image(limitRepository, limitTag, fakehub.RandomBlob(1, 100))
	wall := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(wall.Close)
	outside, _ := url.Parse(wall.URL)
	outside.User = url.UserPassword("proxyuser", canary)
	token, _ := url.Parse(hub.TokenURL())
	return &patient{t: t, hub: hub, environ: map[string]string{
		"UPSTREAM_0_HOST": "docker.io", "UPSTREAM_0_URL": hub.RegistryURL(), "UPSTREAM_0_TOKEN_HOSTS": token.Host, "UPSTREAM_0_PRIVATE_CIDRS": "127.0.0.0/8",
		"LISTEN": "127.0.0.1:" + testkit.FreePort(t), "ADMIN_LISTEN": "127.0.0.1:" + testkit.FreePort(t), "DATA_DIR": filepath.Join(t.TempDir(), "data"),
		"CACHE_SIZE": "64MiB", "MIN_FREE": "0", "DRAIN_TIMEOUT": "100ms", "CONNECT_TIMEOUT": "2s",
	}, o: Options{Version: "test", Proxy: func(r *http.Request) (*url.URL, error) {
		if strings.HasPrefix(r.URL.Host, "127.0.0.1") || strings.HasSuffix(r.URL.Hostname(), ".invalid") {
			return nil, nil //nolint:nilnil // as net/http wants it
		}
		return outside, nil
	}}}
}

func (p *patient) settings() (environ []string) {
	for name, value := range p.environ {
		environ = append(environ, "HUBCAP_"+name+"="+value)
	}
	return environ
}

// examine runs the doctor. Its report holds no secret.
func (p *patient) examine() Report {
	p.t.Helper()
	p.o.Environ = p.settings()
	r := Run(context.Background(), p.o)
	var out bytes.Buffer
	if err := r.WriteText(&out); err != nil {
		p.t.Error(err)
	}
	if strings.Contains(out.String(), canary) {
		p.t.Errorf("a secret in the report:\n%s", out.String())
	}
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("report:\n%s", out.String())
		}
	})
	return r
}

// has fails unless there is a line of a check, in that state, whose texts have
// the parts.
func (p *patient) has(r Report, check string, state State, parts ...string) {
	p.t.Helper()
	for _, l := range r.Lines {
		matches := l.Check == check && l.State == state
		for _, part := range parts {
			matches = matches && strings.Contains(l.What+"\n"+l.Do, part)
		}
		if matches {
			return
		}
	}
	p.t.Errorf("no line: %s %s %q", state, check, parts)
}

// TestBeforeTheFirstStart checks all and makes nothing; it costs no pull.
func TestBeforeTheFirstStart(t *testing.T) {
	p := newPatient(t, fakehub.Options{RateLimit: 100, Users: map[string]string{"box": canary}, UserRateLimit: 200})
	p.environ["UPSTREAM_0_USERNAME"], p.environ["UPSTREAM_0_PASSWORD"] = "box", canary
	r := p.examine()
	p.has(r, "configuration", OK, "the environment")
	p.has(r, "hubcap", OK, "does not run")
	p.has(r, "disk", OK, p.environ["DATA_DIR"], "the cache may take 0.1 GiB")
	p.has(r, "directory", OK)
	p.has(r, "proxy", OK, "registries are asked through http://proxyuser:xxxxx@127.0.0.1")
	p.has(r, "names", OK)
	p.has(r, "clock", OK, "right")
	p.has(r, "registry", OK, "docker.io answers in ", "100 of 100 pulls left (anonymous)", "200 of 200 pulls left (credentials)")
	p.has(r, "credentials", OK, "docker.io accepts")
	p.has(r, "port", OK, "the mirror port "+p.environ["LISTEN"]+" is free")
	p.has(r, "port", OK, "the admin port")
	p.has(r, "addresses", Warning, "only this machine reaches it", "HUBCAP_LISTEN=:")
	p.has(r, "registry", Warning, "ghcr.io: ") // no preset has to answer
	if r.Running || r.State != Warning {
		t.Errorf("running %v, %s", r.Running, r.State)
	}
	if _, err := os.Stat(p.environ["DATA_DIR"]); err == nil {
		t.Error("the data directory was made")
	}
	if n := p.hub.Count(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodGet)); n != 0 {
		t.Errorf("%d pulls", n)
	}
	var out bytes.Buffer
	var back Report
	if err := r.WriteJSON(&out); err != nil || json.Unmarshal(out.Bytes(), &back) != nil || len(back.Lines) != len(r.Lines) || !strings.Contains(out.String(), `"state": "warning"`) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestBesideARunningHubcap asks the admin port, and finds nothing wrong with a
// directory and ports in use.
func TestBesideARunningHubcap(t *testing.T) {
	p := newPatient(t, fakehub.Options{})
	run(t, p)
	r := p.examine()
	p.has(r, "hubcap", OK, "runs")
	p.has(r, "disk", OK, "; it takes ")
	p.has(r, "port", OK, "the mirror port "+p.environ["LISTEN"]+" is hubcap's")
	p.has(r, "port", OK, "the admin port "+p.environ["ADMIN_LISTEN"]+" is hubcap's")
	p.has(r, "clients", Warning, "no client has come", advice.HubOnly(r.Box+":"+strings.TrimPrefix(p.environ["LISTEN"], "127.0.0.1:")), advice.ConfigPath())
	p.has(r, "problem", OK, "hubcap knows of none")
	if !r.Running || r.State != Warning {
		t.Errorf("running %v, %s", r.Running, r.State)
	}
	for _, path := range []string{"/v2/" + limitRepository + "/manifests/latest", "/v2/harbor.corp/team/app/manifests/v1"} {
		resp, err := own.Get("http://" + p.environ["LISTEN"] + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for deadline := time.Now().Add(testkit.Patience); ; time.Sleep(20 * time.Millisecond) {
		b := &box{}
		b.problems, b.unasked = askProblems(context.Background(), "http://"+p.environ["ADMIN_LISTEN"], filepath.Join(p.environ["DATA_DIR"], "admin-token"))
		if len(b.problems) > 0 || time.Now().After(deadline) {
			break
		}
	}
	r = p.examine()
	p.has(r, "clients", OK, "requests for manifests and blobs since the start")
	p.has(r, "problem", Warning, advice.NotConfigured("harbor.corp", 1), "HUBCAP_UPSTREAM_<n>_HOST")
	if err := os.Remove(filepath.Join(p.environ["DATA_DIR"], "admin-token")); err != nil {
		t.Fatal(err)
	}
	r = p.examine()
	p.has(r, "problem", Warning, "the problems that hubcap knows (1) cannot be listed", "as root")
}

// TestBesideAnotherHubcap shows that one that runs with other settings is told
// apart, and is not shown the token.
func TestBesideAnotherHubcap(t *testing.T) {
	p := newPatient(t, fakehub.Options{})
	run(t, p)
	dir, listen := p.environ["DATA_DIR"], p.environ["ADMIN_LISTEN"]
	p.environ["DATA_DIR"] = t.TempDir()
	r := p.examine()
	p.has(r, "hubcap", Warning, "one answers at "+listen, "give the doctor the settings")
	p.environ["DATA_DIR"], p.environ["ADMIN_LISTEN"] = dir, "127.0.0.1:"+testkit.FreePort(t)
	if again := p.examine(); r.Running || again.Running {
		t.Error("it counts as the one with these settings")
	} else {
		p.has(again, "hubcap", Failed, "one uses the data directory", "connection refused")
	}
	var shown string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown += r.Header.Get("Authorization") }))
	defer other.Close()
	p.environ["ADMIN_LISTEN"] = other.Listener.Addr().String()
	if r := p.examine(); r.Running || shown != "" {
		t.Errorf("another program counts as hubcap, and was shown %q", shown)
	}
}

// run runs a hubcap with the patient's settings until the test ends.
func run(t *testing.T, p *patient) {
	t.Helper()
	testbox.Run(t, p.settings(), server.Options{
		Version: "test", Proxy: p.o.Proxy, Adjust: func(s *server.Settings) { s.ProblemInterval, s.StartWithin = 20*time.Millisecond, time.Hour },
	})
}

// TestFailures shows what the doctor says of what keeps hubcap from working, each
// with what to do.
func TestFailures(t *testing.T) {
	file := func(t *testing.T, content []byte) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, tc := range map[string]struct {
		hub    fakehub.Options
		change func(t *testing.T, p *patient)
		check  string
		state  State
		parts  []string
	}{
		"configuration":       {change: func(_ *testing.T, p *patient) { p.environ["LISTEN"] = "wrong" }, check: "configuration", state: Failed, parts: []string{"HUBCAP_LISTEN=wrong"}},
		"an unknown variable": {change: func(_ *testing.T, p *patient) { p.environ["LISTN"] = ":1" }, check: "configuration", state: Warning, parts: []string{"did you mean HUBCAP_LISTEN"}},
		"another program has the port": {change: func(t *testing.T, p *patient) {
			other := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(other.Close)
			p.environ["LISTEN"] = other.Listener.Addr().String()
		}, check: "port", state: Failed, parts: []string{"in use by another program (ss -ltnp 'sport = :"}},
		"the data directory is a file": {change: func(t *testing.T, p *patient) { p.environ["DATA_DIR"] = file(t, nil) }, check: "directory", state: Failed, parts: []string{"HUBCAP_DATA_DIR=", "not a directory"}},
		"a file system in memory": {change: func(t *testing.T, p *patient) {
			dir, err := os.MkdirTemp("/dev/shm", "hubcap-test-doctor-")
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			p.environ["DATA_DIR"] = dir
		}, check: "file system", state: Warning, parts: []string{"tmpfs: it takes memory"}},
		"a wrong password": {hub: fakehub.Options{RateLimit: 100, Users: map[string]string{"box": "other"}}, change: func(_ *testing.T, p *patient) {
			p.environ["UPSTREAM_0_USERNAME"], p.environ["UPSTREAM_0_PASSWORD"] = "box", canary
		}, check: "credentials", state: Failed, parts: []string{advice.LoginRefused(advice.Login{Registry: "docker.io", Limit: 100, Window: 6 * time.Hour})}},
		"a private address":                  {change: func(_ *testing.T, p *patient) { p.environ["UPSTREAM_0_PRIVATE_CIDRS"] = "10.0.0.0/8" }, check: "registry", state: Failed, parts: []string{"docker.io: ", "127.0.0.1 is 127.0.0.1, a private address: HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS=127.0.0.0/16 allows it"}},
		"an unknown authority":               {hub: fakehub.Options{TLS: true}, change: func(*testing.T, *patient) {}, check: "registry", state: Failed, parts: []string{"shows a certificate of", "HUBCAP_CA_FILE=", "set that variable"}},
		"a token service that is not listed": {change: func(_ *testing.T, p *patient) { delete(p.environ, "UPSTREAM_0_TOKEN_HOSTS") }, check: "registry", state: Failed, parts: []string{"docker.io names the token service 127.0.0.1:", "which is not on its list", "set that variable"}},
		"a registry in Docker Hub's place":   {change: func(_ *testing.T, p *patient) { p.hub.DeleteTag(limitRepository, limitTag) }, check: "registry", state: Warning, parts: []string{"docker.io answers in", "but not about its pull limit", "nothing, if HUBCAP_UPSTREAM_<n>_URL"}},
		"a dead registry": {change: func(t *testing.T, p *patient) {
			p.environ["UPSTREAM_0_URL"] = "http://127.0.0.1:" + testkit.FreePort(t)
		}, check: "registry", state: Failed, parts: []string{"docker.io: ", "connection refused", "check route and firewall"}},
		"no registry at the address": {change: func(t *testing.T, p *patient) {
			other := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(other.Close)
			p.environ["UPSTREAM_0_URL"] = other.URL
		}, check: "registry", state: Failed, parts: []string{"(status 404)", "check HUBCAP_UPSTREAM_<n>_URL"}},
		"a name that is not resolved": {change: func(_ *testing.T, p *patient) { p.environ["UPSTREAM_0_URL"] = "https://registry.invalid" }, check: "names", state: Failed, parts: []string{"registry.invalid (", "resolv.conf"}},
		"a wrong clock": {change: func(_ *testing.T, p *patient) {
			p.o.Now = func() time.Time { return time.Now().Add(-10 * time.Minute) }
		}, check: "clock", state: Failed, parts: []string{"10 min behind the registries'", "timedatectl"}},
		"a clock that drifts": {change: func(_ *testing.T, p *patient) {
			p.o.Now = func() time.Time { return time.Now().Add(90 * time.Second) }
		}, check: "clock", state: Warning, parts: []string{" s ahead of the registries'"}},
		"a dead proxy": {change: func(t *testing.T, p *patient) {
			dead, _ := url.Parse("http://user:" + canary + "@127.0.0.1:" + testkit.FreePort(t))
			p.o.Proxy = func(*http.Request) (*url.URL, error) { return dead, nil }
		}, check: "proxy", state: Failed, parts: []string{"http://user:xxxxx@127.0.0.1", "which does not answer", "HTTPS_PROXY"}},
		"an expired authority": {hub: fakehub.Options{TLS: true}, change: func(t *testing.T, p *patient) {
			p.environ["CA_FILE"] = file(t, p.hub.CAPEM())
			p.o.Now = func() time.Time { return time.Now().Add(100 * 365 * 24 * time.Hour) }
		}, check: "authorities", state: Warning, parts: []string{"expired: "}},
		"offline":              {change: func(_ *testing.T, p *patient) { p.environ["OFFLINE"] = "true" }, check: "configuration", state: Warning, parts: []string{"HUBCAP_OFFLINE"}},
		"no room":              {change: func(_ *testing.T, p *patient) { p.environ["MIN_FREE"] = "100%" }, check: "disk", state: Failed, parts: []string{"nothing can be stored"}},
		"more cache than room": {change: func(_ *testing.T, p *patient) { p.environ["CACHE_SIZE"] = "100%" }, check: "disk", state: Warning, parts: []string{"there is room for "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is pauses between attempts
			p := newPatient(t, tc.hub)
			tc.change(t, p)
			r := p.examine()
			p.has(r, tc.check, tc.state, tc.parts...)
			if tc.state == Failed && r.State != Failed {
				t.Errorf("the report is %s", r.State)
			}
		})
	}
}

// TestNoPullsLeft is a failure, and does not cost a pull to find.
func TestNoPullsLeft(t *testing.T) {
	p := newPatient(t, fakehub.Options{RateLimit: 1})
	run(t, p)
	resp, err := own.Get("http://" + p.environ["LISTEN"] + "/v2/" + limitRepository + "/manifests/latest")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r := p.examine()
	p.has(r, "registry", Failed, "0 of 1 pulls left", "HUBCAP_UPSTREAM_<n>_USERNAME")
}

// TestServiceSettings shows that a shell without settings of its own checks those
// of the service.
func TestServiceSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hubcap.env")
	if _, from, err := settings([]string{"PATH=/bin"}, file); err != nil || !strings.Contains(from, "defaults") {
		t.Error(from)
	}
	if err := os.WriteFile(file, []byte("# HUBCAP_LISTEN=:1\nHUBCAP_CACHE_SIZE=\"50GiB\"\n  HUBCAP_TAG_TTL='5m'\nHUBCAPS_PROXY=http://proxy.lan:3128\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HUBCAPS_PROXY", "")
	environ, from, err := settings([]string{"PATH=/bin"}, file)
	if got := os.Getenv("HUBCAPS_PROXY"); err != nil || got != "http://proxy.lan:3128" {
		t.Errorf("the service's proxy is %q here, %v", got, err)
	}
	if from != file || strings.Join(environ, " ") != "PATH=/bin HUBCAP_DATA_DIR=/var/lib/hubcap HUBCAP_CACHE_SIZE=50GiB HUBCAP_TAG_TTL=5m" {
		t.Errorf("%s: %q", from, environ)
	}
	if environ, from, _ := settings([]string{"HUBCAP_LISTEN=:1"}, file); from != "the environment" || len(environ) != 1 {
		t.Errorf("%s: %q", from, environ)
	}
	if _, _, err := settings([]string{"PATH=/bin"}, t.TempDir()); err == nil {
		t.Error("settings that cannot be read are taken for none")
	}
}

func TestCertificates(t *testing.T) {
	if names, expired := certificates(append([]byte("text\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")})...), time.Now()); len(names)+len(expired) != 0 {
		t.Error(names, expired)
	}
}
