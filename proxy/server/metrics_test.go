package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream"
)

// The most series that a box exports with the default registries: at rest, and
// more of them after any traffic that brings no content. One Prometheus scrapes
// many boxes.
const (
	seriesAtRest  = 600
	seriesOfAbuse = 100
)

// series returns the samples of a scrape, by name and labels.
func (b *box) series() map[string]string {
	b.t.Helper()
	_, _, body := b.get(b.admin, "/metrics")
	all := make(map[string]string)
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "#") {
			i := strings.LastIndexByte(strings.TrimSpace(line), ' ')
			all[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return all
}

// TestSeriesAreBounded counts the series of a box with the default registries,
// all played by one hub, at rest and after requests that ask for what is not
// there or not allowed, in as many ways as there are. The labels come from
// closed sets, and what clients invent makes no series.
func TestSeriesAreBounded(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	b := start(t, everyRegistryAt(t, hub)...)
	atRest := b.series()
	if n := len(atRest); n > seriesAtRest {
		t.Errorf("%d series at rest, at most %d are allowed", n, seriesAtRest)
	}
	for i, path := range hostilePaths(img.Layers[0].Digest.String()) {
		b.hostile(i, path)
	}
	// A connection that never sends a request.
	conn, err := net.Dial("tcp", b.mirror)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	after := b.series()
	if n := len(after) - len(atRest); n > seriesOfAbuse {
		t.Errorf("%d series more after hostile traffic, at most %d are allowed", n, seriesOfAbuse)
	}
	for name := range after {
		if strings.Contains(name, "invented") {
			t.Errorf("what a client sent is a label: %s", name)
		}
	}
	t.Logf("%d series at rest, %d after hostile traffic", len(atRest), len(after))
	if after[`hubcap_requests_total{kind="manifest",result="not_found"}`] == "0" || after[`hubcap_requests_total{kind="blob",result="refused"}`] == "0" {
		t.Error("the hostile traffic did not arrive")
	}
}

// everyRegistryAt has one hub play all registries that hubcap knows by default.
func everyRegistryAt(t *testing.T, hub *fakehub.Hub) []string {
	t.Helper()
	token, err := url.Parse(hub.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"HUBCAP_ALLOW_CLIENTS=127.0.0.0/8", "HUBCAP_NOT_FOUND_LIMIT=100000"}
	n := 0
	for _, p := range upstream.Presets() {
		if strings.HasPrefix(p.Host, "*") {
			continue // their addresses follow from the name that is asked for
		}
		prefix := fmt.Sprintf("HUBCAP_UPSTREAM_%d_", n)
		environ = append(environ, prefix+"HOST="+p.Host, prefix+"URL="+hub.RegistryURL(), prefix+"TOKEN_HOSTS="+token.Host, prefix+"PRIVATE_CIDRS=127.0.0.0/8")
		n++
	}
	return environ
}

// hostilePaths are requests for what is not there, of each kind and at each
// registry, and for what cannot be.
func hostilePaths(digest string) (all []string) {
	unknown := "sha256:" + strings.Repeat("0", 64)
	for _, p := range upstream.Presets() {
		if strings.HasPrefix(p.Host, "*") {
			continue
		}
		for _, what := range []string{
			"manifests/invented", "manifests/" + unknown, "manifests/%2e%2e", "blobs/" + unknown, "blobs/" + digest, "blobs/sha256:invented",
			"tags/list", "tags/list?n=-1", "tags/list?last=invented", "referrers/" + unknown, "referrers/invented", "uploads/invented",
		} {
			path, query, _ := strings.Cut(what, "?")
			all = append(all, "/v2/"+p.Host+"/invented/repository/"+what, "/v2/invented/repository/"+path+"?"+strings.Join([]string{query, "ns=" + p.Host}, "&"))
		}
	}
	return append(all, "/", "/v2/", "/v2/?ns=invented.example", "/livez", "/readyz", "/metrics", "/invented", "/v2/../invented",
		"/v2/invented.example/a/manifests/b", "/v2/"+strings.Repeat("a/", 200)+"manifests/b", "/v2/_catalog", "/v2/library/demo/manifests/latest")
}

// hostile sends the i-th request, with a method, a range and a client's name
// that change.
func (b *box) hostile(i int, path string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), soon)
	defer cancel()
	method := []string{http.MethodGet, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut}[i%5]
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.mirror+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("User-Agent", []string{"docker/28.0.0", "containerd/2.0.0", "buildkit/0.20", "containers/5.3", fmt.Sprintf("invented/%d", i)}[i/5%5])
	if i%7 == 0 {
		req.Header.Set("Range", []string{"bytes=-1", "bytes=9-1", "bytes=0-,5-6", "invented"}[i/7%4])
	}
	if i%11 == 0 {
		req.Header.Set("Authorization", "Bearer invented")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// TestWhatTheBoxIs: the build, whether upstreams are asked, and the disk can be
// scraped from a box that has done nothing.
func TestWhatTheBoxIs(t *testing.T) {
	b := start(t, "HUBCAP_OFFLINE=true", "HUBCAP_VERIFY_INTERVAL=2d")
	all := b.series()
	for deadline := time.Now().Add(soon); all["hubcap_filesystem_size_bytes"] == "" && time.Now().Before(deadline); {
		all = b.series() // the disk is looked at behind the start
	}
	for name, want := range map[string]string{"hubcap_offline": "1", "hubcap_verify_interval_seconds": "172800"} {
		if all[name] != want {
			t.Errorf("%s is %q, want %s", name, all[name], want)
		}
	}
	build := 0
	for name, value := range all {
		if strings.HasPrefix(name, "hubcap_build_info{") && strings.Contains(name, `version="test"`) && strings.Contains(name, `revision="`) && value == "1" {
			build++
		}
	}
	if build != 1 {
		t.Error("no hubcap_build_info")
	}
	for _, name := range []string{"hubcap_filesystem_size_bytes", "hubcap_filesystem_free_bytes"} {
		if all[name] == "" || all[name] == "0" {
			t.Errorf("%s is %q", name, all[name])
		}
	}
}
