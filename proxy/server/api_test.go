package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
)

// call sends a request to the admin port with the token of the data directory,
// and returns status, header and body of the answer.
func (b *box) call(dir, method, path string) (status int, header http.Header, answer []byte) {
	b.t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+b.admin+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, answer
}

// TestRoutes asks for every route of the API that changes nothing, and shows that
// errors are problem+json.
func TestRoutes(t *testing.T) {
	dir := t.TempDir()
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true")
	b.get(b.mirror, "/v2/")
	for _, path := range []string{"status", "problems", "fills", "upstreams", "clients", "clients?after=5", "images", "requests", "requests?client=127.0.0.0/8&result=local&image=v2", "bypasses", "capacity", "history", "openapi.json"} {
		status, header, body := b.call(dir, "GET", "/api/v1/"+path)
		if status != 200 || !strings.HasSuffix(header.Get("Content-Type"), "json") || !json.Valid(body) || bytes.Contains(body, []byte("null")) {
			t.Errorf("%s: %d %s", path, status, body)
		}
		t.Logf("%s: %s", path, body)
	}
	for _, one := range []struct {
		method, path string
		status       int
	}{
		{"GET", "none", 404}, {"POST", "status", 405}, {"GET", "status?x=1", 422}, {"GET", "history?step=1", 422}, {"GET", "requests?client=x", 422}, {"GET", "clients?limit=0", 422},
		{"GET", "clients?after=-1", 422},
	} {
		status, header, body := b.call(dir, one.method, "/api/v1/"+one.path)
		if status != one.status || header.Get("Content-Type") != "application/problem+json" || !bytes.Contains(body, []byte(`"title":`)) {
			t.Errorf("%v: %d %v %s", one, status, header, body)
		}
	}
}

// events opens the stream of events from the first one on, and returns what reads
// it up to an event whose data holds some text.
func (b *box) events(dir string) (until func(kind, part string) string) {
	b.t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+b.admin+"/api/v1/events", nil)
	req.Header.Set("Last-Event-ID", "1")
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := b.client.Do(req)
	if err != nil || resp.StatusCode != 200 {
		b.t.Fatal(resp, err)
	}
	b.t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	return func(kind, part string) string {
		b.t.Helper()
		at := ""
		for lines.Scan() {
			text := lines.Text()
			if name, ok := strings.CutPrefix(text, "event: "); ok {
				at = name
			}
			if data, ok := strings.CutPrefix(text, "data: "); ok && at == kind && strings.Contains(data, part) {
				return data
			}
		}
		b.t.Fatalf("no event %s with %s: %v", kind, part, lines.Err())
		return ""
	}
}

// TestEventsOfTagsAndEvictions: a tag that is pulled, frozen and purged, a job, and
// what makes room for more than the cache can hold.
func TestEventsOfTagsAndEvictions(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	dir := t.TempDir()
	b := start(t, append(behind(t, hub), "HUBCAP_DATA_DIR="+dir, "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8")...)
	c := newContract(b, dir)
	until := b.events(dir)
	hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 100_000))
	b.get(b.mirror, "/v2/library/demo/manifests/v1")
	until("tag", `"ref":"docker.io/library/demo:v1"`)
	c.ask(200, "POST", "image/freeze", `{"ref":"demo:v1"}`)
	until("job", `"kind":"freeze"`)
	until("tag", `"state":"frozen"`)
	c.ask(200, "POST", "purge", `{"ref":"demo:v1","force":true}`)
	until("tag", `"state":"forgotten"`)
	for i := range uint64(6) {
		img := hub.Image("library/big", fmt.Sprint("v", i), fakehub.RandomBlob(10+i, 15<<20))
		b.get(b.mirror, "/v2/library/big/blobs/"+img.Layers[0].Digest.String())
	}
	var e api.EvictionEvent
	if err := json.Unmarshal([]byte(until("eviction", "")), &e); err != nil || e.Objects < 1 || e.Bytes < 1<<20 {
		t.Errorf("%+v, %v", e, err)
	}
	var s api.Status
	if err := json.Unmarshal(c.ask(200, "GET", "status", ""), &s); err != nil || s.Disk.LastUnusedS == nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestEvents follows a pull, a registry that breaks down, and the end of the box.
func TestEvents(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 3<<20))
	layer := img.Layers[0].Digest.String()
	hub.Script(fakehub.Always(&fakehub.Fault{Rate: 1 << 20}, fakehub.OfKind(fakehub.KindCDN)))
	dir := t.TempDir()
	b := start(t, append(behind(t, hub), "HUBCAP_DATA_DIR="+dir, "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8")...)
	until := b.events(dir)
	go func() {
		if resp, err := b.client.Get("http://" + b.mirror + "/v2/library/demo/blobs/" + layer); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	until("fill", layer)
	until("fill", `"state":"filling"`)
	until("fill", `"state":"ended"`)
	hub.Down()
	for i := range 10 {
		b.get(b.mirror, fmt.Sprint("/v2/library/demo/manifests/none-", i))
	}
	until("upstream", `"circuit":"open"`)
	b.events(dir)("problem", `"id":"upstream-fails`)
	b.cancel()
	if err := b.wait(); err != nil {
		t.Error(err)
	}
}
