package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
)

// arguments are those of the reading commands that need some.
var arguments = map[string]string{"image": "demo:v1"}

// TestReadingCommands runs every command that changes nothing against a hubcap
// that has served a pull, as text and with --json.
func TestReadingCommands(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 100_000))
	h.pull()
	for _, c := range Command(Options{}).Commands() {
		if c.GroupID != "look" {
			continue
		}
		t.Run(c.Name(), func(t *testing.T) {
			line := c.Name() + " " + arguments[c.Name()]
			r := h.run(line)
			if r.out == "" || r.errs != "" || r.code != Done && r.code != InPart {
				t.Errorf("%s: %+v", line, r)
			}
			t.Log("\n" + r.out)
			asJSON := h.run(line + " --json")
			if !json.Valid([]byte(asJSON.out)) || asJSON.errs != "" || asJSON.code != r.code {
				t.Errorf("%s --json: %+v", line, asJSON)
			}
		})
	}
}

// TestCommandsOfThisMachine uses the socket.
func TestCommandsOfThisMachine(t *testing.T) {
	h := start(t)
	h.environ = h.environ[:1]
	h.wants(Done, "status", "")
	if r := h.run("login"); r.code != Done || !strings.HasPrefix(r.out, "http://127.0.0.1:") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%+v", r)
	}
}

// TestFollowLog: requests appear as they come, each once.
func TestFollowLog(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	h.get("library/demo/manifests/v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := make(lineWriter, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, []string{"log", "-f", "--json", "--image", "demo"}, Options{Environ: h.environ, Stdin: nil, Stdout: lines, Stderr: io.Discard})
	}()
	for id := int64(1); id <= 2; id++ {
		var r api.Request
		if err := json.Unmarshal(<-lines, &r); err != nil || r.ID != id || r.Image() != "docker.io/library/demo:v1" {
			t.Errorf("%d: %+v, %v", id, r, err)
		}
		if id == 1 {
			h.get("library/demo/manifests/v1")
		}
	}
	cancel()
	if err := <-ended; err != nil || len(lines) > 0 {
		t.Errorf("%v, %d more lines", err, len(lines))
	}
}

// TestLog says where the bytes of each answer came from.
func TestLog(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	h.pull()
	h.get("library/demo/manifests/v1")
	h.wants(Done, "log", `127.0.0.1 +other +library/demo:v1  miss  \d+ B  \d+ ms  from docker.io, kept\n(.|\n)*library/demo:v1  hit  \d+ B  \d+ ms  nothing from the internet\n`)
	h.wants(Done, "log --result failed", "There was no such request")
}

// lineWriter receives what is written, line by line.
type lineWriter chan []byte

func (w lineWriter) Write(p []byte) (int, error) { w <- bytes.Clone(p); return len(p), nil }

// answering is a server in place of a hubcap, which answers the same to everything.
func answering(t *testing.T, status int, contentType, body string) (environ []string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return []string{"HUBCAP_URL=" + s.URL}
}

func TestExitCodes(t *testing.T) {
	const problem = "application/problem+json"
	for name, tc := range map[string]struct {
		status      int
		contentType string
		body        string
		token       string
		code        int
		says        string
	}{
		"no token":             {401, "text/plain", "", "", NotAllowed, "wants a token: set HUBCAP_TOKEN or HUBCAP_TOKEN_FILE"},
		"a wrong token":        {401, problem, `{"detail":"that is no token of this hubcap"}`, "x", NotAllowed, "that is no token of this hubcap"},
		"to look only":         {403, problem, `{"detail":"this token may look only"}`, "x", NotAllowed, "this token may look only"},
		"no such image":        {404, problem, `{"type":"urn:hubcap:unknown-tag","detail":"library/x:1 is not held"}`, "", NoImage, "library/x:1 is not held"},
		"a bad value":          {422, problem, `{"title":"Unprocessable","errors":[{"location":"query.limit","message":"too large"}]}`, "", Usage, "Unprocessable; query.limit: too large"},
		"what is to be done":   {409, problem, `{"detail":"the pins do not fit","do":"unpin something"}`, "", Failed, "the pins do not fit; unpin something"},
		"a failure":            {500, problem, `{"title":"Internal Server Error"}`, "", Failed, "Internal Server Error"},
		"no hubcap":            {404, "text/html", "<html>", "", NoBox, "answers with status <html>"},
		"a redirect":           {302, "text/html", "", "", NoBox, "answers with status 302 Found"},
		"no JSON":              {200, "text/html", "<html>", "", Failed, "is not understood"},
		"an escape sequence":   {409, problem, `{"detail":"\u001b[31mred\u009b"}`, "", Failed, "hubcap: ?[31mred?\n"},
		"an answer of a proxy": {502, "text/plain", "Bad Gateway\nmore", "", NoBox, "answers with status Bad Gateway\n"},
	} {
		t.Run(name, func(t *testing.T) {
			environ := append(answering(t, tc.status, tc.contentType, tc.body), "HUBCAP_TOKEN="+tc.token)
			r := run("fills", environ...)
			if r.code != tc.code || !strings.Contains(r.errs, tc.says) || r.out != "" || strings.Count(r.errs, "\n") != 1 {
				t.Errorf("%+v, want %d %q", r, tc.code, tc.says)
			}
		})
	}
}

// TestNobodyAnswers: there is no socket, nobody listens, the address is none.
func TestNobodyAnswers(t *testing.T) {
	dir := "HUBCAP_DATA_DIR=" + t.TempDir()
	for name, tc := range map[string]struct {
		line    string
		environ string
		code    int
		says    string
	}{
		"no socket":       {"status", "", NoBox, "no hubcap answers at this machine"},
		"nobody listens":  {"status --box http://127.0.0.1:1", "", NoBox, "no hubcap answers at http://127.0.0.1:1"},
		"no address":      {"status --box 127.0.0.1", "", Usage, "--box 127.0.0.1: want an address"},
		"no address set":  {"status", "HUBCAP_URL=x", Failed, "HUBCAP_URL=x: want an address"},
		"an unknown flag": {"status --jsn", "", Usage, "unknown flag: --jsn; hubcap status --help has the flags"},
		"too many words":  {"status all", "", Usage, "usage: hubcap status"},
	} {
		if r := run(tc.line, dir, tc.environ); r.code != tc.code || !strings.Contains(r.errs, tc.says) {
			t.Errorf("%s: %+v, want %d %q", name, r, tc.code, tc.says)
		}
	}
}

// TestTheTokenIsSentToTheBoxAlone: a redirect is not followed.
func TestTheTokenIsSentToTheBoxAlone(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	s := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	if r := run("status", "HUBCAP_URL="+s.URL, "HUBCAP_TOKEN=secret"); r.code != NoBox || asked {
		t.Errorf("%+v, asked: %v", r, asked)
	}
}
