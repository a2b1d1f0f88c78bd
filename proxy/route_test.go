package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// registriesOf returns a set of registries to which no test may connect.
func registriesOf(t testing.TB, hosts ...string) *upstream.Set {
	t.Helper()
	m := metrics.New()
	var entries []upstream.Entry
	for _, host := range hosts {
		entries = append(entries, upstream.Entry{Host: host, Options: upstream.Options{
			Label: host, URL: &url.URL{Scheme: "https", Host: host}, Metrics: m.Upstreams, Log: slog.New(slog.DiscardHandler),
			Proxy: func(*http.Request) (*url.URL, error) {
				t.Error("a registry is asked")
				return nil, errors.New("no network")
			},
		}})
	}
	set, err := upstream.NewSet(entries, upstream.DockerHub)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// knownRegistries are examples of every kind of registry name.
var knownRegistries = []string{
	"docker.io", "ghcr.io", "gcr.io", "*.gcr.io", "*.pkg.dev", "us.pkg.dev", "registry.example.com", "registry.example.com:8443",
	"*.example.net:5000", "harbor", "localhost:5005", "10.0.0.1:5000",
}

// TestNamesOfRegistries: which registry and repository a request means, at a
// port whose default is Docker Hub, and at one whose default is gcr.io.
func TestNamesOfRegistries(t *testing.T) {
	set := registriesOf(t, knownRegistries...)
	gcr, ok := set.Find("gcr.io")
	if !ok {
		t.Fatal("gcr.io is not there")
	}
	for _, tc := range []struct {
		path string // with … for the rest
		hub  string // registry and repository at a port of Docker Hub, or the error
		gcr  string // the same at a port of gcr.io; "" for the same
	}{
		// Named not at all.
		{"/v2/demo/…", "docker.io library/demo", "gcr.io demo"},
		{"/v2/library/demo/…", "docker.io library/demo", "gcr.io library/demo"},
		{"/v2/owner/app/…", "docker.io owner/app", "gcr.io owner/app"},
		{"/v2/v2/v2/…", "docker.io v2/v2", "gcr.io v2/v2"},
		{"/v2/manifests/blobs/…", "docker.io manifests/blobs", "gcr.io manifests/blobs"},
		{"/v2/ghcr.io/…", "docker.io library/ghcr.io", "gcr.io ghcr.io"}, // a name alone is a repository's

		// By ns.
		{"/v2/demo/…?ns=docker.io", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=DOCKER.IO", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=docker.io.", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=docker.io:443", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=index.docker.io", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=registry-1.docker.io", "docker.io library/demo", ""},
		{"/v2/demo/…?ns=ghcr.io", "ghcr.io demo", ""},
		{"/v2/a/b/c/…?ns=eu.gcr.io", "eu.gcr.io a/b/c", ""},
		{"/v2/a/b/…?ns=a.b.gcr.io", "404 NAME_UNKNOWN", ""},
		{"/v2/a/b/…?ns=gcr.io:5000", "404 NAME_UNKNOWN", ""},
		{"/v2/team/app/…?ns=registry.example.com", "registry.example.com team/app", ""},
		{"/v2/team/app/…?ns=registry.example.com:443", "registry.example.com team/app", ""},
		{"/v2/team/app/…?ns=registry.example.com:8443", "registry.example.com:8443 team/app", ""},
		{"/v2/team/app/…?ns=registry.example.com:8444", "404 NAME_UNKNOWN", ""},
		{"/v2/team/app/…?ns=x.example.net:5000", "x.example.net:5000 team/app", ""},
		{"/v2/team/app/…?ns=x.example.net", "404 NAME_UNKNOWN", ""},
		{"/v2/team/app/…?ns=harbor", "harbor team/app", ""},
		{"/v2/team/app/…?ns=localhost", "404 NAME_UNKNOWN", ""},
		{"/v2/team/app/…?ns=localhost:5005", "localhost:5005 team/app", ""},
		{"/v2/team/app/…?ns=10.0.0.1:5000", "10.0.0.1:5000 team/app", ""},

		// In the name.
		{"/v2/docker.io/demo/…", "docker.io library/demo", ""},
		{"/v2/docker.io/library/demo/…", "docker.io library/demo", ""},
		{"/v2/index.docker.io/library/demo/…", "docker.io library/demo", ""},
		{"/v2/ghcr.io/owner/app/…", "ghcr.io owner/app", ""},
		{"/v2/GHCR.io/owner/app/…", "ghcr.io owner/app", ""},
		{"/v2/ghcr.io/app/…", "ghcr.io app", ""},
		{"/v2/us.pkg.dev/project/app/…", "us.pkg.dev project/app", ""},
		{"/v2/asia.pkg.dev/project/app/…", "asia.pkg.dev project/app", ""},
		{"/v2/registry.example.com/team/app/…", "registry.example.com team/app", ""},
		{"/v2/registry.example.com:8443/team/app/…", "registry.example.com:8443 team/app", ""},
		{"/v2/registry.example.com:8444/team/app/…", "404 NAME_UNKNOWN", ""},
		{"/v2/localhost:5005/x/…", "localhost:5005 x", ""},
		{"/v2/localhost:5006/x/…", "404 NAME_UNKNOWN", ""},
		{"/v2/localhost/x/…", "404 NAME_UNKNOWN", "gcr.io localhost/x"},
		{"/v2/10.0.0.1:5000/x/…", "10.0.0.1:5000 x", ""},
		{"/v2/[::1]:5000/x/…", "404 NAME_UNKNOWN", ""},
		{"/v2/docker.io/ghcr.io/owner/app/…", "docker.io ghcr.io/owner/app", ""}, // only the first part is a registry
		{"/v2/other.example/owner/app/…", "404 NAME_UNKNOWN", "gcr.io other.example/owner/app"},
		{"/v2/google.com/cloudsdktool/cloud-sdk/…", "404 NAME_UNKNOWN", "gcr.io google.com/cloudsdktool/cloud-sdk"},
		{"/v2/gcr.io/google.com/cloudsdktool/cloud-sdk/…", "gcr.io google.com/cloudsdktool/cloud-sdk", ""},
		{"/v2/harbor/team/app/…", "docker.io harbor/team/app", "gcr.io harbor/team/app"}, // an account
		{"/v2/harbor:443/team/app/…", "harbor team/app", ""},
		{"/v2/Other.example/x/…", "404 NAME_UNKNOWN", ""},
		{"/v2/ghcr%2Eio/owner/app/…", "400 NAME_INVALID", ""}, // one spelling
		{"/v2/ghcr.io:65536000/owner/app/…", "400 NAME_INVALID", ""},

		// Before the version.
		{"/docker.io/v2/demo/…", "docker.io library/demo", ""},
		{"/ghcr.io/v2/owner/app/…", "ghcr.io owner/app", ""},
		{"/registry.example.com:8443/v2/team/app/…", "registry.example.com:8443 team/app", ""},
		{"/harbor/v2/team/app/…", "harbor team/app", ""},
		{"/other.example/v2/owner/app/…", "404 NAME_UNKNOWN", ""},
		{"/gcr.io/v2/google.com/cloudsdktool/cloud-sdk/…", "gcr.io google.com/cloudsdktool/cloud-sdk", ""},
		{"/ghcr.io/v2/quay.io/owner/app/…", "ghcr.io quay.io/owner/app", ""},
		{"/a/b/v2/owner/app/…", "404 UNSUPPORTED", ""},
		{"/ghcr.io%2Fv2/owner/app/…", "404 UNSUPPORTED", ""},
		{"/registry.example.com%3A8443/v2/team/app/…", "400 NAME_INVALID", ""},

		// In several places.
		{"/v2/docker.io/library/demo/…?ns=docker.io", "docker.io library/demo", ""},
		{"/v2/docker.io/demo/…?ns=registry-1.docker.io", "docker.io library/demo", ""},
		{"/v2/ghcr.io/owner/app/…?ns=ghcr.io", "ghcr.io owner/app", ""}, // BuildKit's mirror with a path
		{"/v2/registry.example.com:8443/team/app/…?ns=registry.example.com:8443", "registry.example.com:8443 team/app", ""},
		{"/v2/ghcr.io/owner/app/…?ns=harbor", "harbor ghcr.io/owner/app", ""}, // a project that is called so
		{"/v2/ghcr.io/owner/app/…?ns=docker.io", "docker.io ghcr.io/owner/app", ""},
		{"/v2/other.example/owner/app/…?ns=harbor", "harbor other.example/owner/app", ""},
		{"/v2/harbor/team/app/…?ns=harbor", "harbor harbor/team/app", ""}, // no registry in a name
		{"/ghcr.io/v2/owner/app/…?ns=ghcr.io", "ghcr.io owner/app", ""},
		{"/ghcr.io/v2/ghcr.io/owner/app/…?ns=ghcr.io", "ghcr.io owner/app", ""},
		{"/docker.io/v2/demo/…?ns=index.docker.io", "docker.io library/demo", ""},
		{"/ghcr.io/v2/owner/app/…?ns=docker.io", "404 NAME_UNKNOWN", ""}, // a mistake, and not another's content
		{"/ghcr.io/v2/owner/app/…?ns=other.example", "404 NAME_UNKNOWN", ""},
		{"/other.example/v2/owner/app/…?ns=ghcr.io", "404 NAME_UNKNOWN", ""},
	} {
		for _, port := range []struct {
			name string
			def  *upstream.Upstream
			want string
		}{{"hub", set.Default(), tc.hub}, {"gcr.io", gcr, tc.gcr}} {
			if port.want == "" {
				port.want = tc.hub
			}
			for _, rest := range []string{"manifests/latest", "tags/list"} {
				r := httptest.NewRequest(http.MethodGet, strings.Replace(tc.path, "…", rest, 1), nil)
				if got := meant(parseRoute(r, set, port.def)); got != port.want {
					t.Errorf("%s, at a port of %s: %s, want %s", r.URL, port.name, got, port.want)
				}
			}
		}
	}
}

// meant returns the registry and repository of a parsed request, or status and code of the error.
func meant(rt route, err error) string {
	if failed, ok := errors.AsType[*apiError](err); ok {
		return fmt.Sprint(failed.status, " ", failed.code)
	}
	return rt.upstream.Host + " " + rt.name
}
