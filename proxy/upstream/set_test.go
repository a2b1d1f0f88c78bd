package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/upstream/credentials"
)

// newSet makes a set of hosts. dials counts the requests that are about to
// connect.
func newSet(t *testing.T, hosts ...string) (set *Set, dials *atomic.Int64) {
	t.Helper()
	dials = new(atomic.Int64)
	m := metrics.New()
	var entries []Entry
	for _, host := range hosts {
		entries = append(entries, Entry{Host: host, TagTTL: time.Minute, Options: Options{
			Label: host, URL: &url.URL{Scheme: "https", Host: host}, Metrics: m.Upstreams, Log: slog.New(slog.DiscardHandler),
			// Each request asks for its way before it connects.
			Proxy: func(*http.Request) (*url.URL, error) { dials.Add(1); return nil, errors.New("no network") },
		}})
	}
	set, err := NewSet(entries, DockerHub)
	if err != nil {
		t.Fatal(err)
	}
	return set, dials
}

func TestFind(t *testing.T) {
	t.Parallel()
	set, dials := newSet(t, "docker.io", "ghcr.io", "gcr.io", "*.gcr.io", "*.pkg.dev", "exact.pkg.dev", "registry.corp:5000")
	tests := map[string]string{
		"docker.io":                          "docker.io",
		"index.docker.io":                    "docker.io",
		"registry-1.docker.io":               "docker.io",
		"DOCKER.IO":                          "docker.io",
		"Index.Docker.IO":                    "docker.io",
		"docker.io.":                         "docker.io",
		"docker.io:443":                      "docker.io",
		"docker.io.:443":                     "docker.io",
		"REGISTRY-1.docker.io:443":           "docker.io",
		"ghcr.io":                            "ghcr.io",
		"registry.corp:5000":                 "registry.corp:5000",
		"gcr.io":                             "gcr.io",
		"eu.gcr.io":                          "eu.gcr.io",
		"EU.gcr.io:443":                      "eu.gcr.io",
		"europe-docker.pkg.dev":              "europe-docker.pkg.dev",
		"europe-docker.pkg.dev.":             "europe-docker.pkg.dev",
		"exact.pkg.dev":                      "exact.pkg.dev",
		"1.pkg.dev":                          "1.pkg.dev",
		strings.Repeat("a", 63) + ".pkg.dev": strings.Repeat("a", 63) + ".pkg.dev",

		"":                     "",
		".":                    "",
		":443":                 "",
		"docker.io..":          "",
		"docker.io:80":         "",
		"docker.io:443:80":     "",
		"docker.io:443.":       "",
		"auth.docker.io":       "",
		"evil-docker.io":       "",
		"docker.io.evil":       "",
		"docker.io@evil":       "",
		"docker.io#@x":         "",
		"docker.io/../x":       "",
		"docker.io%00.evil":    "",
		"docker.io\x00":        "",
		"\tdocker.io":          "",
		"registry.corp":        "",
		"registry.corp:443":    "",
		"pkg.dev":              "",
		".pkg.dev":             "",
		"*.pkg.dev":            "",
		"a.b.pkg.dev":          "",
		"-x.pkg.dev":           "",
		"x-.pkg.dev":           "",
		"x_y.pkg.dev":          "",
		"x@y.pkg.dev":          "",
		"x/y.pkg.dev":          "",
		"x:80.pkg.dev":         "",
		"x%2e.pkg.dev":         "",
		"ä.pkg.dev":            "",
		"x.pkg.dev:8080":       "",
		"x.pkg.dev.evil":       "",
		"xpkg.dev":             "",
		"x.evil.dev":           "",
		"localhost":            "",
		"localhost:5000":       "",
		"127.0.0.1":            "",
		"127.0.0.1:22":         "",
		"127.1":                "",
		"2130706433":           "",
		"0x7f.1":               "",
		"0.0.0.0":              "",
		"[::]":                 "",
		"[::1]:5000":           "",
		"169.254.169.254":      "",
		"100.100.100.200":      "",
		"[fd00:ec2::254]":      "",
		"[64:ff9b::a9fe:a9fe]": "",
		"[2002:a9fe:a9fe::]":   "",

		"[::ffff:169.254.169.254]":               "",
		"metadata.google.internal":               "",
		strings.Repeat("a", 64) + ".pkg.dev":     "",
		strings.Repeat("a", 10_000) + ".pkg.dev": "",
		strings.Repeat(".", 10_000):              "",
	}
	for name, want := range tests {
		u, ok := set.Find(name)
		if ok != (want != "") || ok && u.Host != want {
			t.Errorf("%.100q: got %+v, %t, want %q", name, u, ok, want)
		}
	}
	if n := dials.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestFindAgain(t *testing.T) {
	t.Parallel()
	set, _ := newSet(t, "docker.io", "*.pkg.dev")
	for _, names := range [][2]string{{"docker.io", "Index.docker.io:443"}, {"x.pkg.dev", "X.pkg.dev."}} {
		a, _ := set.Find(names[0])
		b, _ := set.Find(names[1])
		if a != b {
			t.Errorf("%s and %s are two upstreams, with two token caches", names[0], names[1])
		}
	}
	if set.Default().Host != DockerHub {
		t.Errorf("the default is %q", set.Default().Host)
	}
	if a, _ := set.Find("docker.io"); a != set.Default() {
		t.Error("the default is another one")
	}
}

// TestPatternIsBounded: clients choose the names behind a pattern, so the number
// of upstreams is bounded.
func TestPatternIsBounded(t *testing.T) {
	t.Parallel()
	set, dials := newSet(t, "docker.io", "*.pkg.dev")
	err := together(patternHosts*4, func(i int) error {
		host := fmt.Sprintf("h%d.pkg.dev", i)
		u, ok := set.Find(host)
		if !ok || u.Host != host || u.Anonymous.o.URL.String() != "https://"+host || u.TagTTL != time.Minute {
			return fmt.Errorf("%s: got %+v, %t", host, u, ok)
		}
		if u.Anonymous.o.Label != "*.pkg.dev" {
			return fmt.Errorf("%s: a client's name becomes the label %q", host, u.Anonymous.o.Label)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := set.lazy.Len(); n > patternHosts {
		t.Errorf("%d hosts behind patterns are kept", n)
	}
	if n := dials.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestNewSet(t *testing.T) {
	t.Parallel()
	if _, err := NewSet(nil, "docker.io"); err == nil || !strings.Contains(err.Error(), `"docker.io"`) {
		t.Errorf("without the default: got error %v", err)
	}
	m := metrics.New()
	set, err := NewSet([]Entry{{Host: "a.test", Options: Options{
		URL: &url.URL{Scheme: "https", Host: "a.test"}, Login: credentials.Login{Username: boxUser, Password: canary}, Metrics: m.Upstreams,
	}}}, "a.test")
	if err != nil {
		t.Fatal(err)
	}
	u := set.Default()
	if u.Own == nil || !u.Own.Credentials() || u.Anonymous.Credentials() || u.Anonymous.login != nil {
		t.Errorf("got %+v, want a client with credentials and one without", u)
	}
	if u.Own.tokens == u.Anonymous.tokens {
		t.Error("both identities share a token cache")
	}
}

func TestPresets(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range Presets() {
		if seen[p.Host] || p.Host != strings.ToLower(p.Host) {
			t.Errorf("%q is there twice, or cannot be found", p.Host)
		}
		seen[p.Host] = true
		if p.URL != "" {
			if u, err := url.Parse(p.URL); err != nil || u.Scheme != "https" || u.Path != "" || u.User != nil {
				t.Errorf("%s is at %q", p.Host, p.URL)
			}
		}
		for _, host := range p.TokenHosts {
			if _, err := TokenHost(host, "https"); err != nil {
				t.Errorf("%s: %v", p.Host, err)
			}
		}
	}
	if !seen[DockerHub] {
		t.Error("Docker Hub is not there")
	}
	for alias, real := range aliases {
		if seen[alias] || !seen[real] {
			t.Errorf("%s stands for %s", alias, real)
		}
	}
}

func TestRules(t *testing.T) {
	for name, tt := range map[string]struct {
		rules          Rules
		allows, shares bool // owner/app
	}{
		"none":                         {Rules{}, true, false},
		"allowed":                      {Rules{Allow: []string{"library/*", "owner/**"}}, true, false},
		"not among the allowed":        {Rules{Allow: []string{"library/*"}}, false, false},
		"denied":                       {Rules{Deny: []string{"owner/app"}}, false, false},
		"allowed and denied":           {Rules{Allow: []string{"**"}, Deny: []string{"owner/*"}}, false, false},
		"one part of a name":           {Rules{Allow: []string{"*"}}, false, false},
		"shared":                       {Rules{Visibility: Shared, SharedRepositories: []string{"team/*", "owner/*"}}, true, true},
		"not among the shared":         {Rules{Visibility: Shared, SharedRepositories: []string{"team/*"}}, true, false},
		"shared, of a public registry": {Rules{Visibility: Public, SharedRepositories: []string{"**"}}, true, false},
	} {
		if allows, shares := tt.rules.Allows("owner/app"), tt.rules.Shares("owner/app"); allows != tt.allows || shares != tt.shares {
			t.Errorf("%s: allows %t, shares %t", name, allows, shares)
		}
	}
}
