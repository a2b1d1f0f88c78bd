package config

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// entry is the one entry for a host.
func entry(t *testing.T, c Config, host string) upstream.Entry {
	t.Helper()
	var found []upstream.Entry
	for _, e := range c.Upstreams {
		if e.Host == host {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d entries for %s, want 1", len(found), host)
	}
	return found[0]
}

func TestPresets(t *testing.T) {
	c := mustLoad(t, "HUBCAP_TAG_TTL=3m", "HUBCAP_CONNECT_TIMEOUT=1s", "HUBCAP_HEADER_TIMEOUT=2s", "HUBCAP_STALL_TIMEOUT=3s")
	if got, want := len(c.Upstreams), len(upstream.Presets()); got != want {
		t.Fatalf("%d registries, want the %d presets", got, want)
	}
	for _, p := range upstream.Presets() {
		e := entry(t, c, p.Host)
		want := p.URL
		if want == "" {
			want = "https://" + p.Host
		}
		if e.URL.String() != want || e.Label != p.Host {
			t.Errorf("%s is at %s as %q, want %s", p.Host, e.URL, e.Label, want)
		}
		if len(e.TokenHosts) != len(p.TokenHosts) {
			t.Errorf("%s: token hosts %q, want %q", p.Host, e.TokenHosts, p.TokenHosts)
		}
		if e.TagTTL != 3*time.Minute || e.ConnectTimeout != time.Second || e.HeaderTimeout != 2*time.Second || e.StallTimeout != 3*time.Second {
			t.Errorf("%s: times %v, %v, %v, %v", p.Host, e.TagTTL, e.ConnectTimeout, e.HeaderTimeout, e.StallTimeout)
		}
		if e.Username != "" || e.Password != "" || e.PrivateCIDRs != nil || e.CAFiles != nil {
			t.Errorf("%s has more than the preset: %+v", p.Host, e)
		}
	}
	if !slices.IsSortedFunc(c.Upstreams, func(a, b upstream.Entry) int { return strings.Compare(a.Host, b.Host) }) {
		t.Error("the registries are not sorted")
	}
}

// tokenHost is a token host as the entries spell it.
func tokenHost(t *testing.T, host, scheme string) string {
	t.Helper()
	at, err := upstream.TokenHost(host, scheme)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestMerging(t *testing.T) {
	hub := tokenHost(t, "auth.docker.io", "https")
	for _, tc := range []struct {
		name    string
		environ []string // without HUBCAP_UPSTREAM_
		host    string
		url     string
		tokens  []string
		more    int // registries beside the presets
	}{
		{
			name: "credentials keep the preset's address and token host", host: "docker.io",
			environ: []string{"0_HOST=docker.io", "0_USERNAME=u", "0_PASSWORD=p"},
			url:     "https://registry-1.docker.io", tokens: []string{hub},
		},
		{
			name: "a host is one host in any case", host: "docker.io",
			environ: []string{"0_HOST=Docker.IO"},
			url:     "https://registry-1.docker.io", tokens: []string{hub},
		},
		{
			name: "index.docker.io is docker.io", host: "docker.io",
			environ: []string{"0_HOST=index.docker.io", "0_URL=https://hub.example.com"},
			url:     "https://hub.example.com", tokens: []string{hub},
		},
		{
			name: "registry-1.docker.io is docker.io", host: "docker.io",
			environ: []string{"0_HOST=registry-1.docker.io", "0_URL=https://hub.example.com"},
			url:     "https://hub.example.com", tokens: []string{hub},
		},
		{
			name: "the standard port is no part of a name", host: "ghcr.io",
			environ: []string{"0_HOST=ghcr.io:443", "0_URL=https://hub.example.com"},
			url:     "https://hub.example.com",
		},
		{
			name: "nor is the dot at the end", host: "ghcr.io",
			environ: []string{"0_HOST=ghcr.io.", "0_URL=https://hub.example.com"},
			url:     "https://hub.example.com",
		},
		{
			name: "another address of a known registry", host: "docker.io",
			environ: []string{"0_HOST=docker.io", "0_URL=https://hub.example.com/remote"},
			url:     "https://hub.example.com/remote", tokens: []string{hub},
		},
		{
			name: "token hosts replace the preset's", host: "docker.io",
			environ: []string{"0_HOST=docker.io", "0_TOKEN_HOSTS=auth.example.com, sso.example.com:8443"},
			url:     "https://registry-1.docker.io",
			tokens:  []string{tokenHost(t, "auth.example.com", "https"), tokenHost(t, "sso.example.com:8443", "https")},
		},
		{
			name: "an unknown host", host: "registry.example.com", more: 1,
			environ: []string{"0_HOST=registry.example.com"},
			url:     "https://registry.example.com",
		},
		{
			name: "an unknown host with a port", host: "registry.example.com:8443", more: 1,
			environ: []string{"0_HOST=registry.example.com:8443"},
			url:     "https://registry.example.com:8443",
		},
		{
			name: "plain http by naming it", host: "registry.example.com", more: 1,
			environ: []string{"0_HOST=registry.example.com", "0_URL=http://10.0.0.5:5000", "0_TOKEN_HOSTS=auth.example.com"},
			url:     "http://10.0.0.5:5000", tokens: []string{tokenHost(t, "auth.example.com", "http")},
		},
		{
			name: "a pattern", host: "*.example.com", more: 1,
			environ: []string{"0_HOST=*.example.com", "0_TOKEN_HOSTS=auth.example.com"},
			url:     "https://*.example.com", tokens: []string{tokenHost(t, "auth.example.com", "https")},
		},
		{
			name: "the second of two", host: "b.example.com", more: 2,
			environ: []string{"0_HOST=a.example.com", "1_HOST=b.example.com", "1_URL=https://c.example.com"},
			url:     "https://c.example.com",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environ := make([]string, len(tc.environ))
			for i, one := range tc.environ {
				environ[i] = "HUBCAP_UPSTREAM_" + one
			}
			c := mustLoad(t, environ...)
			e := entry(t, c, tc.host)
			if got, err := url.PathUnescape(e.URL.String()); err != nil || got != tc.url {
				t.Errorf("at %s, want %s", got, tc.url)
			}
			if !slices.Equal(e.TokenHosts, tc.tokens) {
				t.Errorf("token hosts %q, want %q", e.TokenHosts, tc.tokens)
			}
			if got, want := len(c.Upstreams), len(upstream.Presets())+tc.more; got != want {
				t.Errorf("%d registries, want %d", got, want)
			}
			if len(c.Warnings) > 0 {
				t.Errorf("warnings: %q", c.Warnings)
			}
		})
	}
}

// Whatever spelling of a registry's name the operator chose, requests find
// what was set for it.
func TestOwnRegistryIsFound(t *testing.T) {
	const own = 42 * time.Second
	for _, host := range []string{
		"docker.io", "Docker.IO", "index.docker.io", "registry-1.docker.io", "registry-1.docker.io:443", "docker.io.",
		"ghcr.io", "ghcr.io:443", "ghcr.io.", "registry.example.com", "registry.example.com:8443", "10.0.0.5:5000",
	} {
		t.Run(host, func(t *testing.T) {
			c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST="+host, "HUBCAP_UPSTREAM_0_TAG_TTL="+own.String())
			all := metrics.New().Upstreams
			for i := range c.Upstreams {
				c.Upstreams[i].Metrics = all
			}
			set, err := upstream.NewSet(c.Upstreams, c.DefaultUpstream)
			if err != nil {
				t.Fatal(err)
			}
			if u, ok := set.Find(host); !ok || u.TagTTL != own {
				t.Errorf("Find(%q) = %+v, %t; want what was set", host, u, ok)
			}
		})
	}
}

func TestOneRegistryUnderTwoNames(t *testing.T) {
	message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_1_HOST=index.docker.io")
	if want := "HUBCAP_UPSTREAM_1_HOST=index.docker.io: HUBCAP_UPSTREAM_0_HOST names it too; tell them apart by HUBCAP_UPSTREAM_1_REPOSITORIES"; message != want {
		t.Errorf("got %q, want %q", message, want)
	}
}

func TestRegistrySettings(t *testing.T) {
	file := writeFile(t, t.TempDir(), "ca.pem", certificate(t))
	c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_USERNAME=alice", "HUBCAP_UPSTREAM_0_PASSWORD=s3cret",
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=10.0.0.0/8,fd00::/8", "HUBCAP_UPSTREAM_0_TAG_TTL=1d", "HUBCAP_UPSTREAM_0_CA_FILE="+file)
	e := entry(t, c, "registry.example.com")
	if e.Username != "alice" || e.Password != "s3cret" {
		t.Errorf("credentials %q, %q", e.Username, e.Password)
	}
	if got := Prefixes(e.PrivateCIDRs).String(); got != "10.0.0.0/8,fd00::/8" {
		t.Errorf("private ranges %s", got)
	}
	if e.TagTTL != 24*time.Hour || len(e.CAFiles) != 1 {
		t.Errorf("tag TTL %v, authorities %v", e.TagTTL, e.CAFiles)
	}
	if other := entry(t, c, "docker.io"); other.Username != "" || other.PrivateCIDRs != nil || other.CAFiles != nil || other.TagTTL != time.Minute {
		t.Errorf("one registry's settings are another's too: %+v", other)
	}
}

func TestCAFileIsForEveryRegistry(t *testing.T) {
	dir := t.TempDir()
	site := writeFile(t, dir, "site.pem", certificate(t))
	own := writeFile(t, dir, "own.pem", certificate(t))
	c := mustLoad(t, "HUBCAP_CA_FILE="+site, "HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_CA_FILE="+own)
	hub, registry := entry(t, c, "docker.io").CAFiles, entry(t, c, "registry.example.com").CAFiles
	if len(hub) != 1 || hub[0].Path() != site || len(registry) != 2 || registry[0] != hub[0] || registry[1].Path() != own {
		t.Error("want the site's authority for docker.io, and the registry's own besides for registry.example.com")
	}
}

func TestCredentialsInClearAreWarnedAbout(t *testing.T) {
	c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_URL=http://registry.example.com",
		"HUBCAP_UPSTREAM_0_USERNAME=alice", "HUBCAP_UPSTREAM_0_PASSWORD="+canary)
	want := "HUBCAP_UPSTREAM_0_URL=http://registry.example.com: the credentials go over the network in clear"
	if !slices.Equal(c.Warnings, []string{want}) {
		t.Errorf("warnings %q, want %q", c.Warnings, want)
	}
}
