package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// TestSetup asks a mirror port how clients are configured: HEAD as GET, other
// methods not at all. Registries are not asked.
func TestSetup(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	box := strings.TrimPrefix(r.url, "http://")
	text := r.get("/setup?client=docker")
	text.want(t, http.StatusOK, []byte("{\n  \"registry-mirrors\": [\"http://"+box+"\"]\n}\n"), "hubcap")
	page := r.get("/setup")
	page.want(t, http.StatusOK, nil, "hubcap")
	for _, want := range []string{r.url, "docker.io, ghcr.io, harbor, quay.io, registry.example.com:8443", "127.0.0.1", "has not pulled"} {
		if !strings.Contains(string(page.body), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(string(page.body), r.dir) {
		t.Error("the page has the data directory")
	}
	for path, want := range map[string]reply{"/setup": page, "/setup?client=docker": text} {
		head := r.do(http.MethodHead, path)
		head.want(t, http.StatusOK, nil, "hubcap")
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Security-Policy", "Cache-Control", "X-Content-Type-Options"} {
			if got := head.Header.Get(name); got != want.Header.Get(name) || got == "" {
				t.Errorf("%s: %s is %q for HEAD and %q for GET", path, name, got, want.Header.Get(name))
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			if got := r.do(method, path); got.StatusCode != http.StatusMethodNotAllowed || got.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %v", method, path, got.StatusCode, got.Header)
			}
		}
	}
	for path, status := range map[string]int{"/setup?client=none": 404, "/setup?ca": 404, "/setup/": 404, "/setup/x": 404, r.login + "/setup": 404} {
		r.get(path).want(t, status, nil, "")
	}
	if n := r.asked.Load(); n != 0 {
		t.Errorf("%d requests to registries", n)
	}
}

// Only clients that may pull see it.
func TestSetupIsForClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	for _, path := range []string{"/setup", "/setup?client=docker", "/setup?ca"} {
		got := r.get(path)
		if got.want(t, http.StatusForbidden, nil, ""); got.code() != "DENIED" {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}

// TestSetupRefusesHosts sends Host headers that are none.
func TestSetupRefusesHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	address := listen(t, r.handler)
	for _, host := range []string{"", "a_b", "a'b", "a;id", "$(id)", "x:99999", "::1", "10.1.2.300"} {
		answer := string(exchange(t, address, "GET /setup?client=docker HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"))
		if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || host != "" && strings.Contains(answer, host) {
			t.Errorf("%q: %s", host, answer)
		}
	}
	answer := string(exchange(t, address, "GET http://elsewhere.example.com/setup?client=docker HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n"))
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || strings.Contains(answer, "elsewhere") {
		t.Errorf("a whole address: %s", answer)
	}
}

// TestSetupOfAFurtherPort has the default registry of the port.
func TestSetupOfAFurtherPort(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	up, _ := r.handler.Upstreams.Find("ghcr.io")
	further := httptest.NewServer(r.handler.For(up))
	defer further.Close()
	box := strings.TrimPrefix(further.URL, "http://")
	got := string(r.get(further.URL + "/setup?client=podman").body)
	for _, want := range []string{"location = \"" + box + "\"\n", "location = \"" + box + "/docker.io\"\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestSetupShowsTheLastPull of the client that asks, and of nobody else. What
// failed is no pull.
func TestSetupShowsTheLastPull(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{})
	hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	r := newRig(t, rigOptions{hub: hub, clients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, proxies: loopback})
	expect := func(client, want string) {
		t.Helper()
		page := r.get("/setup", "X-Forwarded-For", client)
		if !strings.Contains(string(page.body), "This host ("+client+") "+want) {
			t.Errorf("%s: not %q in\n%s", client, want, page.body)
		}
	}
	r.get("/v2/library/demo/manifests/none", "X-Forwarded-For", "10.0.0.1").want(t, http.StatusNotFound, nil, "")
	r.get("/v2/", "X-Forwarded-For", "10.0.0.1").want(t, http.StatusOK, nil, "")
	expect("10.0.0.1", "has not pulled")
	r.do(http.MethodHead, "/v2/library/demo/manifests/v1", "X-Forwarded-For", "10.0.0.1").want(t, http.StatusOK, nil, "")
	r.clock.Advance(2 * time.Minute)
	expect("10.0.0.1", "last pulled 2 minutes ago.")
	expect("10.0.0.2", "has not pulled")
}
