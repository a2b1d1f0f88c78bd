package admin

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/admin/api"
)

const token = "0123456789abcdef0123456789abcdef"

const viewToken = "fedcba9876543210fedcba9876543210"

func serve(t *testing.T, o Options) *httptest.Server {
	t.Helper()
	port, _ := build(o)
	s := httptest.NewServer(port)
	t.Cleanup(s.Close)
	return s
}

// build returns the handlers of the port and of the socket.
func build(o Options) (port, socket http.Handler) {
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	if o.Box == nil {
		o.Box = &Box{Now: time.Now, Events: NewEvents(0)}
	}
	o.Metrics, o.Health, o.Log = say("metrics"), say("ok"), slog.New(slog.DiscardHandler)
	o.Page = func(http.Handler) Page { return blank{} }
	o.Config = func(w io.Writer) error { _, err := io.WriteString(w, "settings"); return err }
	return New(o)
}

// blank is a page with nothing on it.
type blank struct{}

func (blank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/debug/") {
		http.NotFound(w, r)
		return
	}
	_, _ = fmt.Fprintf(w, "page, acting: %v", MayAct(r.Context()))
}

func (blank) SignIn(w http.ResponseWriter, _ *http.Request, wrong *api.Error) {
	if wrong != nil {
		w.WriteHeader(wrong.Status)
	}
	_, _ = io.WriteString(w, "token, please")
}

// ask sends a request as it is written.
func ask(t *testing.T, s *httptest.Server, line string, header ...string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	head := append([]string{line + " HTTP/1.1", "Connection: close"}, header...)
	if _, err := io.WriteString(conn, strings.Join(head, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

// TestAdmin sends what a browser, a client without the token and one with it may
// send. Nothing here changes anything.
func TestAdmin(t *testing.T) {
	s := serve(t, Options{Token: is(token), ViewToken: is(viewToken), Names: []string{"box.example.com"}, Pprof: true})
	here, auth := "Host: 127.0.0.1:5001", "Authorization: Bearer "+token
	for name, tc := range map[string]struct {
		line   string
		header []string
		status int
		body   string
	}{
		"metrics":                      {"GET /metrics", []string{here}, 200, "metrics"},
		"live":                         {"GET /livez", []string{"Host: localhost"}, 200, "ok"},
		"ready, by the machine's name": {"GET /readyz", []string{"Host: Box.Example.com:5001"}, 200, "ok"},
		"an IPv6 address":              {"GET /readyz", []string{"Host: [::1]:5001"}, 200, "ok"},
		"settings":                     {"GET /admin/config", []string{here, auth}, 200, "settings"},
		"pprof":                        {"GET /debug/pprof/cmdline", []string{here, auth}, 200, ""},
		"a page of the port itself":    {"GET /metrics", []string{here, "Origin: http://127.0.0.1:5001", "Sec-Fetch-Site: same-origin"}, 200, ""},

		"no token":                     {"GET /admin/config", []string{here}, 401, ""},
		"a wrong token":                {"GET /admin/config", []string{here, auth + "x"}, 401, ""},
		"the beginning of the token":   {"GET /admin/config", []string{here, auth[:len(auth)-1]}, 401, ""},
		"an empty token":               {"GET /admin/config", []string{here, "Authorization: Bearer "}, 401, ""},
		"the token in the query":       {"GET /admin/config?token=" + token, []string{here}, 401, ""},
		"the token as a password":      {"GET /admin/config", []string{here, "Authorization: Basic " + token}, 401, ""},
		"the view token":               {"GET /api/v1/openapi.json", []string{here, "Authorization: Bearer " + viewToken}, 200, ""},
		"the view token, and settings": {"GET /admin/config", []string{here, "Authorization: Bearer " + viewToken}, 403, ""},
		"the view token, and profiles": {"GET /debug/pprof/", []string{here, "Authorization: Bearer " + viewToken}, 403, ""},
		"the view token, and a change": {"POST /api/v1/login", []string{here, "Authorization: Bearer " + viewToken, "Content-Length: 0"}, 403, ""},
		"a login link without a token": {"POST /api/v1/login", []string{here, "Content-Length: 0"}, 401, ""},
		"no cookie of this port":       {"GET /admin/config", []string{here, "Cookie: hubcap-admin=x"}, 401, ""},
		"a wrong code":                 {"GET /login?code=x", []string{here}, 403, ""},
		"no code":                      {"GET /login", []string{here}, 200, "token, please"},
		"the page":                     {"GET /images", []string{here}, 303, ""},
		"the page from another site":   {"GET /images", []string{here, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200, ""},
		"the page by token":            {"GET /images", []string{here, auth}, 200, "page, acting: true"},
		"the page by view token":       {"GET /images", []string{here, "Authorization: Bearer " + viewToken}, 200, "page, acting: false"},
		"a form without a token":       {"POST /do/purge", []string{here, "Content-Length: 0"}, 401, ""},
		"a form and the view token":    {"POST /do/purge", []string{here, "Authorization: Bearer " + viewToken, "Content-Length: 0"}, 403, ""},
		"the style":                    {"GET /static/style.css", []string{here}, 200, ""},
		"a link on another page":       {"GET /livez", []string{here, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200, "ok"},
		"another page's frame":         {"GET /livez", []string{here, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, 403, ""},
		"another page's form":          {"POST /logout", []string{here, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Content-Length: 0"}, 403, ""},
		"a form of another origin":     {"POST /api/v1/login", []string{here, auth, "Origin: http://evil.example.com", "Content-Length: 0"}, 403, ""},
		"pprof without a token":        {"GET /debug/pprof/", []string{here}, 401, ""},
		"a foreign name":               {"GET /metrics", []string{"Host: evil.example.com"}, 403, ""},
		"a foreign name and the token": {"GET /admin/config", []string{"Host: evil.example.com:5001", auth}, 403, ""},
		"a name like an address":       {"GET /metrics", []string{"Host: 127.0.0.1.evil.example.com"}, 403, ""},
		"no name":                      {"GET /metrics", []string{"Host:"}, 403, ""},
		"another origin":               {"GET /admin/config", []string{here, auth, "Origin: http://evil.example.com"}, 403, ""},
		"no origin at all":             {"GET /admin/config", []string{here, auth, "Origin: null"}, 403, ""},
		"another port is another one":  {"GET /admin/config", []string{here, auth, "Origin: http://127.0.0.1:80"}, 403, ""},
		"from another site":            {"GET /metrics", []string{here, "Sec-Fetch-Site: cross-site"}, 403, ""},
		"a path that is cleaned":       {"DELETE /admin/../../etc", []string{here, auth}, 404, ""},
		"another method":               {"POST /metrics", []string{here, "Content-Length: 0"}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := ask(t, s, tc.line, tc.header...)
			if status == http.StatusTemporaryRedirect || status == http.StatusMovedPermanently {
				status = http.StatusNotFound // a path that is cleaned before it is looked for
			}
			if status != tc.status || tc.body != "" && body != tc.body {
				t.Errorf("%d %q, want %d %q", status, body, tc.status, tc.body)
			}
			if strings.Contains(body, token) || strings.Contains(body, viewToken) {
				t.Error("the token is in the answer")
			}
		})
	}
}

func TestPprofIsOffUntilAsked(t *testing.T) {
	s := serve(t, Options{Token: is(token)})
	if status, _ := ask(t, s, "GET /debug/pprof/", "Host: localhost", "Authorization: Bearer "+token); status != 404 {
		t.Errorf("%d", status)
	}
}

func TestWithoutATokenNobodyIsLetIn(t *testing.T) {
	s := serve(t, Options{})
	for _, shown := range []string{"", "Bearer", "Bearer "} {
		if status, _ := ask(t, s, "GET /admin/config", "Host: localhost", "Authorization: "+shown); status != 401 {
			t.Errorf("%q: %d", shown, status)
		}
	}
}

func TestToken(t *testing.T) {
	name := filepath.Join(t.TempDir(), "admin-token")
	first, exposed, err := Token(name)
	if err != nil || exposed || len(first) != 64 {
		t.Fatalf("%q, %v, %v", first, exposed, err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if again, _, err := Token(name); again != first || err != nil {
		t.Errorf("another start has %q, %v", again, err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, exposed, err := Token(name); !exposed || err != nil {
		t.Errorf("everybody can read it: %v, %v", exposed, err)
	}
	for what, damage := range map[string]func() error{
		"short":       func() error { return os.WriteFile(name, []byte("x"), 0o600) },
		"a directory": func() error { return os.Mkdir(name, 0o700) },
		"a link":      func() error { return os.Symlink("/etc/hostname", name) },
	} {
		_ = os.RemoveAll(name)
		_ = damage()
		if got, _, err := Token(name); err == nil || got != "" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

// is is a token that does not change.
func is(token string) func() string { return func() string { return token } }

// TestTokenFileIsReadAgain: what is written into the file counts a second later, and
// a file that is gone is made anew.
func TestTokenFileIsReadAgain(t *testing.T) {
	name, clock := filepath.Join(t.TempDir(), "admin-token"), testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	read := TokenFile(name, clock.Now, slog.New(slog.DiscardHandler))
	first := read()
	for _, text := range []string{strings.Repeat("a", 32), strings.Repeat("b", 33), "short"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		clock.Advance(2 * time.Second)
		want := text
		if len(text) < minToken {
			want = ""
		}
		if got := read(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Second)
	if got := read(); len(got) < minToken || got == first {
		t.Errorf("%q", got)
	}
}
