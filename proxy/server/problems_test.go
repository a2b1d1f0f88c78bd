package server

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"hubcap/proxy/problems"
)

// askAdmin asks the admin port, by the token in dir, and decodes the answer, if
// it is 200.
func (b *box) askAdmin(dir, path string, answer any) (status int) {
	b.t.Helper()
	token, err := os.ReadFile(dir + "/admin-token")
	if err != nil {
		b.t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodGet, "http://"+b.admin+path, nil)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			b.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// problemsOf returns the problems that the admin port lists.
func (b *box) problemsOf(dir string) []problems.Problem {
	b.t.Helper()
	var answer struct{ Problems []problems.Problem }
	if status := b.askAdmin(dir, "/api/v1/problems", &answer); status != http.StatusOK {
		b.t.Fatal(status)
	}
	return answer.Problems
}

// TestProblems shows that what the rooms know becomes a problem of a whole
// hubcap: in the log, at the admin port, in the metrics, and ten minutes later at
// HUBCAP_NOTIFY_URL, whose address is nowhere in the log.
func TestProblems(t *testing.T) {
	posted := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posted <- string(body)
	}))
	defer hook.Close()
	dir := t.TempDir()
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_NOTIFY_URL="+hook.URL+"/canary-hook")
	b.get(b.mirror, "/v2/harbor.corp/team/app/manifests/v1")
	conn, err := net.Dial("tcp", b.mirror)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0x16, 3, 1, 0, 1, 0, '\n', '\n'}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(conn) // plain HTTP from here on would be taken for the client's second try
	want := map[string]string{
		"offline": "no registry is asked", "tls-to-plain-port/mirror": "127.0.0.1 speaks TLS to the plain port", "registry-not-configured": "1 client asks for harbor.corp",
	}
	var all []problems.Problem
	for deadline := time.Now().Add(soon); len(all) < len(want); time.Sleep(5 * time.Millisecond) {
		all = b.problemsOf(dir)
		if time.Now().After(deadline) {
			t.Fatalf("%+v", all)
		}
	}
	for _, p := range all {
		if want[p.ID] == "" || !strings.Contains(p.What, want[p.ID]) || p.Since.IsZero() {
			t.Errorf("%+v", p)
		}
	}
	if _, _, body := b.get(b.admin, "/metrics"); !strings.Contains(body, `hubcap_problems{severity="warning"} 3`) {
		t.Error("the metric is missing")
	}
	if status, _, _ := b.get(b.admin, "/api/v1/problems"); status != http.StatusUnauthorized {
		t.Errorf("without the token: %d", status)
	}
	b.clock.Store(int64(11 * time.Minute))
	if body := <-posted; !strings.Contains(body, `"state":"begun"`) || !strings.Contains(body, `"id":"offline"`) { // the others have ended by then
		t.Error(body)
	}
	if text := b.log.String(); strings.Contains(text, "canary-hook") || b.line("problem begins") == nil {
		t.Error("the log has the address, or lacks the problem")
	}
}
