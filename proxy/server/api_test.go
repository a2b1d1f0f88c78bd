package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call sends a request to the admin port with the token of the data directory,
// and returns status, header and body of the answer.
func (b *box) call(dir, method, path, body string) (status int, header http.Header, answer []byte) {
	b.t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+b.admin+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
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
	for _, path := range []string{"status", "problems", "fills", "upstreams", "clients", "clients?after=5", "requests", "requests?client=127.0.0.0/8&result=local&image=v2", "bypasses", "capacity", "history", "openapi.json"} {
		status, header, body := b.call(dir, "GET", "/api/v1/"+path, "")
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
		status, header, body := b.call(dir, one.method, "/api/v1/"+one.path, "")
		if status != one.status || header.Get("Content-Type") != "application/problem+json" || !bytes.Contains(body, []byte(`"title":`)) {
			t.Errorf("%v: %d %v %s", one, status, header, body)
		}
	}
}
