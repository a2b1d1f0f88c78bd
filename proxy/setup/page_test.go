package setup

import (
	"crypto/tls"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

var client1 = netip.MustParseAddr("10.1.2.7")

// ask asks a Page as a client with the address client1 does.
func ask(p *Page, host, target string, adjust ...func(r *http.Request)) (status int, header http.Header, body string) {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host, r.RemoteAddr = host, client1.String()+":1234"
	for _, f := range adjust {
		f(r)
	}
	status, header, content := p.Answer(r, client1, "docker.io")
	return status, header, string(content)
}

func secured(r *http.Request) { r.TLS = new(tls.ConnectionState) }

var start = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)

func newPage(t *testing.T) (*Page, *testkit.Clock, *pulls) {
	t.Helper()
	clock := testkit.NewClock(start)
	pulled := &pulls{now: clock.Now, at: make(map[netip.Addr]time.Time)}
	return New(Options{Mirrors: Mirrors{Registries: registries, HubPort: "5000"}, Pulls: pulled, Now: clock.Now}), clock, pulled
}

// pulls is when each client last pulled.
type pulls struct {
	now func() time.Time
	at  map[netip.Addr]time.Time
}

func (p *pulls) Pulled(client netip.Addr) { p.at[client] = p.now() }

func (p *pulls) LastPull(client netip.Addr) (at time.Time, ok bool) {
	at, ok = p.at[client]
	return at, ok
}

// checkHTML reads a page to its end as strict XML, which a valid page of ours
// is, and returns the text of it.
func checkHTML(t *testing.T, body string) string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(body))
	var text strings.Builder
	ids := map[string]bool{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return text.String()
		}
		if err != nil {
			t.Fatalf("it is not well-formed: %v\n%s", err, body)
		}
		switch token := token.(type) {
		case xml.CharData:
			text.Write(token)
		case xml.StartElement:
			if token.Name.Local == "script" {
				t.Error("there is a script")
			}
			for _, a := range token.Attr {
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "style" {
					t.Errorf("the attribute %s is not for a page with this policy", a.Name.Local)
				}
				if a.Name.Local == "id" && ids[a.Value] {
					t.Errorf("the id %s is there twice", a.Value)
				}
				ids[a.Value] = ids[a.Value] || a.Name.Local == "id"
			}
		}
	}
}

func TestPage(t *testing.T) {
	p, clock, pulls := newPage(t)
	status, header, body := ask(p, "Berlin.lan:5000", "/setup")
	if status != http.StatusOK || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", status, header)
	}
	text := checkHTML(t, body)
	for _, want := range []string{
		"Pull through http://berlin.lan:5000", "docker.io, ghcr.io, registry.example.com:8443, *.example.net",
		"This host (10.1.2.7) has not pulled since hubcap was started.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, c := range clients {
		if want, _ := boxes["plain"].Text(c.Name, Plain); !strings.Contains(text, want) || !strings.Contains(text, c.Title) {
			t.Errorf("the page lacks the text of %s", c.Name)
		}
	}
	for _, not := range []string{"leads to this box on this box only", "fingerprint"} {
		if strings.Contains(text, not) {
			t.Errorf("the page has %q", not)
		}
	}
	pulls.Pulled(client1)
	clock.Advance(2*time.Minute + 10*time.Second)
	if _, _, body = ask(p, "berlin.lan:5000", "/setup"); !strings.Contains(body, "This host (10.1.2.7) last pulled 2 minutes ago.") {
		t.Errorf("the pull is not on the page:\n%s", body)
	}
}

// The policy lets one style pass, and it is the one on the page.
func TestPolicy(t *testing.T) {
	p, _, _ := newPage(t)
	_, header, body := ask(p, "berlin.lan:5000", "/setup")
	css := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)
	want := "default-src 'none'; style-src '" + hashOf(css[1]) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := header.Get("Content-Security-Policy"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLoopbackIsPointedOut(t *testing.T) {
	p, _, _ := newPage(t)
	for _, host := range []string{"localhost:5000", "127.0.0.1:5000", "[::1]:5000"} {
		if _, _, body := ask(p, host, "/setup"); !strings.Contains(checkHTML(t, body), "leads to this box on this box only") {
			t.Errorf("%s: nothing says that it is of no use to other hosts", host)
		}
	}
}

func TestTextsOverHTTP(t *testing.T) {
	p, _, _ := newPage(t)
	for _, name := range Names() {
		for _, form := range []string{Plain, Ansible, CloudInit} {
			want, err := boxes["plain"].Text(name, form)
			status, header, body := ask(p, "berlin.lan:5000", "/setup?client="+name+"&as="+form)
			if err != nil && (status != http.StatusNotFound || body != err.Error()+"\n") || err == nil && (status != http.StatusOK || body != want) ||
				header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%s %s: %d %v\n%s", name, form, status, header, body)
			}
		}
	}
}

// Nothing that a client sends comes back, but for a host that is one.
func TestNothingIsEchoed(t *testing.T) {
	p, _, _ := newPage(t)
	for _, target := range []string{"/setup", "/setup?client=docker", "/setup?ca"} {
		for _, host := range hostileHosts {
			status, header, body := ask(p, host, target)
			if status != http.StatusBadRequest || body != errHost || header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%q: %d %v %s", host, status, header, body)
			}
		}
	}
	for _, target := range []string{"/setup?client=hostile", "/setup?client=docker&as=hostile", "/setup?ca=hostile", "/setup?hostile=hostile", "/setup?client=docker&hostile"} {
		status, header, body := ask(p, "berlin.lan:5000", target, func(r *http.Request) {
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "User-Agent", "Referer"} {
				r.Header.Set(name, "hostile")
			}
		})
		if strings.Contains(body, "hostile") {
			t.Errorf("%s is echoed:\n%s", target, body)
		}
		for name, values := range header {
			if strings.Contains(strings.Join(values, ""), "hostile") {
				t.Errorf("%s is echoed in %s", target, name)
			}
		}
		if status == http.StatusNotFound && strings.Count(body, "\n") != 1 {
			t.Errorf("%s: %q is not one line", target, body)
		}
	}
}

// A trusted proxy may speak TLS for the box; a client only says that it does.
func TestSchemeBehindAProxy(t *testing.T) {
	p, _, _ := newPage(t)
	forwarded := func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }
	proxied := func(r *http.Request) { r.RemoteAddr = "10.9.9.9:1234" }
	for _, tc := range []struct {
		name   string
		adjust []func(r *http.Request)
		want   string
	}{
		{"the client itself", []func(r *http.Request){forwarded}, "http://berlin.lan:80"},
		{"through a proxy", []func(r *http.Request){forwarded, proxied}, "https://berlin.lan:443"},
		{"through a proxy without TLS", []func(r *http.Request){proxied}, "http://berlin.lan:80"},
		{"with TLS", []func(r *http.Request){secured}, "https://berlin.lan:443"},
	} {
		_, _, body := ask(p, "berlin.lan", "/setup?client=docker", tc.adjust...)
		if !strings.Contains(body, `"`+tc.want+`"`) {
			t.Errorf("%s: %s, want %s", tc.name, body, tc.want)
		}
	}
}

// TestAddressOfAFurtherPort has dockerd ask the port of Docker Hub as well.
func TestAddressOfAFurtherPort(t *testing.T) {
	p, _, _ := newPage(t)
	r := httptest.NewRequest(http.MethodGet, "/setup?client=docker", nil)
	r.Host = "berlin.lan:5002"
	_, _, body := p.Answer(r, client1, "ghcr.io")
	if want := `["http://berlin.lan:5002", "http://berlin.lan:5000"]`; !strings.Contains(string(body), want) {
		t.Errorf("%s, want %s", body, want)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "just now", 999 * time.Millisecond: "just now", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago",
		time.Minute: "1 minute ago", 2*time.Hour - 1: "1 hour ago", 47 * time.Hour: "1 day ago", 48 * time.Hour: "2 days ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
