package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHostileInput sends bad requests to the admin port over raw connections, with
// the token and without. None is answered with 200 or 500, and the box goes
// on.
func TestHostileInput(t *testing.T) {
	dir := shortDir(t)
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true")
	content, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	token := "Authorization: Bearer " + strings.TrimSpace(string(content)) + "\r\n"
	const mark = "<script>canary</script>"
	values := []string{"../../etc/passwd", "a%00b", "%c0%ae", "%0d%0aX-Evil:1", strings.Repeat("a", 700), "%3Cscript%3Ecanary%3C%2Fscript%3E", "-1", "99999999999999999999", "x;y", "%zz"}
	bodies := []string{
		"", "{", "[]", "null", `"x"`, `{"ref":1}`, `{"ref":"` + mark + `"}`, `{"ref":"a","unknown":1}`, `{"ref":"../../etc"}`, `{"ref":"a:b:c"}`,
		`{"refs":["` + mark + `"]}`, `{"ref":"` + strings.Repeat("a", 700) + `"}`, strings.Repeat("[", 10000), `{"ref":"\u0000"}`,
	}
	var raw []string
	for _, v := range values {
		for _, path := range []string{"image/history?ref=", "image?ref=", "image/tree?ref=", "images?after=", "images?sort=", "images?limit=", "requests?limit=", "clients?after=", "history?since=", "history?step=", "events?kind=", "jobs/", v + "?"} {
			raw = append(raw, fmt.Sprintf("GET /api/v1/%s%s HTTP/1.1\r\nHost: localhost\r\n%sConnection: close\r\n\r\n", path, v, token))
		}
	}
	for _, body := range bodies {
		for _, path := range []string{"POST /api/v1/image/freeze", "POST /api/v1/image/rollback", "POST /api/v1/image/thaw", "PUT /api/v1/pins", "POST /api/v1/warm", "POST /api/v1/purge", "POST /api/v1/evict"} {
			head := fmt.Sprintf("%s HTTP/1.1\r\nHost: localhost\r\n%sConnection: close\r\nContent-Length: %d\r\n", path, token, len(body))
			raw = append(raw, head+"Content-Type: application/json\r\n\r\n"+body, head+"Content-Type: text/xml\r\n\r\n"+body)
		}
	}
	for _, one := range raw {
		for _, sent := range []string{one, strings.Replace(one, token, "", 1)} {
			status, answer := b.raw(sent)
			if status < 300 || status == 500 {
				t.Errorf("%.300q: %d %s", sent, status, answer)
			}
			if sent != one && status < 300 {
				t.Errorf("%.300q: %d without a token", sent, status)
			}
		}
		b.clock.Add(int64(4 * time.Second)) // 20 wrong tokens a minute are not reached
	}
	t.Logf("%d rows", 2*len(raw))
	if status, _, body := b.call(dir, "GET", "/api/v1/status"); status != 200 {
		t.Errorf("afterwards: %d %s", status, body)
	}
}

// raw sends bytes to the admin port and returns status and body of the answer; 0
// if there is none.
func (b *box) raw(sent string) (status int, body string) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.admin)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	_, _ = io.WriteString(conn, sent)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 400, ""
	}
	content, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content)
}
