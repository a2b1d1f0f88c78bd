package setup

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // of the style
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Pulls knows when clients pulled.
type Pulls interface {
	// LastPull returns when a client last pulled; ok is false if it is not
	// known to have pulled.
	LastPull(client netip.Addr) (at time.Time, ok bool)
}

// Options is what a Page needs. Every field is required.
type Options struct {
	Mirrors Mirrors
	Pulls   Pulls
	Now     func() time.Time
}

// Page answers GET /setup.
type Page struct{ Options }

// New returns a Page.
func New(o Options) *Page { return &Page{o} }

// errHost does not repeat the header, which could be anything.
const errHost = "The Host header is no host name or address, with or without a port.\n"

// Answer returns the response to a request: the page, or the text that the
// query asks for. client is who asks, def the default registry of the port.
func (p *Page) Answer(r *http.Request, client netip.Addr, def string) (status int, header http.Header, body []byte) {
	box, ok := p.box(r, client, def)
	if !ok {
		return plain(http.StatusBadRequest, errHost)
	}
	query := r.URL.Query()
	switch {
	case query.Has("client"):
		text, err := box.Text(query.Get("client"), query.Get("as"))
		if err != nil {
			return plain(http.StatusNotFound, err.Error()+"\n")
		}
		return plain(http.StatusOK, text)
	case query.Has("ca") && box.CA == nil:
		return plain(http.StatusNotFound, "Clients need no certificate of this box.\n")
	case query.Has("ca"):
		return http.StatusOK, headers("application/x-x509-ca-cert"), box.CA
	}
	header = headers("text/html; charset=utf-8")
	header.Set("Content-Security-Policy", policy)
	return http.StatusOK, header, p.html(box, client)
}

// box returns what a client is told. ok is false if the request does not say
// where it reaches the box.
func (p *Page) box(r *http.Request, client netip.Addr, def string) (Box, bool) {
	secured := r.TLS != nil
	// The client is not the peer only behind a trusted proxy, which may speak
	// TLS for this box.
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && peer.Addr().Unmap().WithZone("") != client {
		secured = secured || r.Header.Get("X-Forwarded-Proto") == "https"
	}
	port := "80"
	if secured {
		port = "443"
	}
	address, ok := parseAddress(r.Host, port)
	if !ok {
		return Box{}, false
	}
	return p.Mirrors.Box(address, secured, def), true
}

func plain(status int, text string) (int, http.Header, []byte) {
	return status, headers("text/plain; charset=utf-8"), []byte(text)
}

// headers returns those of every answer. It is different for each client, so
// nobody may keep it.
func headers(contentType string) http.Header {
	return http.Header{
		"Content-Type": {contentType}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
		"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
	}
}

//go:embed text/page.css
var style string

// policy lets the page use its own style and nothing else.
var policy = "default-src 'none'; style-src '" + hashOf(style) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// hashOf returns the name of an inline style in a Content-Security-Policy.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

var page = template.Must(template.New("page.html").Funcs(template.FuncMap{"code": Code}).ParseFS(files, "text/page.html"))

// Section is what a page shows of one client.
type Section struct {
	client
	Text  string   // the file that it reads, or commands
	Steps string   // a shell script that applies it
	Notes []string // what stands in `backquotes` is code
}

// Sections returns a section for each client.
func (b Box) Sections() (all []Section) {
	for _, c := range clients {
		all = append(all, Section{
			client: c, Text: b.render(c, "file"), Steps: b.render(c, "steps"),
			Notes: strings.Split(strings.TrimSpace(b.render(c, "notes")), "\n"),
		})
	}
	return all
}

// html returns the page.
func (p *Page) html(b Box, client netip.Addr) []byte {
	data := struct {
		Box
		Style    template.CSS
		Loopback bool
		Client   netip.Addr
		Ago      string // since the client's last pull; empty if that is not known
		Sections []Section
	}{Box: b, Sections: b.Sections(), Style: template.CSS(style), Loopback: isLoopback(b.Address), Client: client} //nolint:gosec // an embedded file
	if at, ok := p.Pulls.LastPull(client); ok {
		data.Ago = ago(p.Now().Sub(at))
	}
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		panic(err) // the template is tested
	}
	return out.Bytes()
}

// Code returns a line of text as HTML: what stands in `backquotes` is code.
func Code(line string) template.HTML {
	var out strings.Builder
	for i, part := range strings.Split(line, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		out.WriteString(part)
	}
	return template.HTML(out.String()) //nolint:gosec // each part is escaped
}

// ago returns a time in the past, in words.
func ago(d time.Duration) string {
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		switch n := int64(d / unit.of); {
		case n == 1:
			return "1 " + unit.name + " ago"
		case n > 1:
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return "just now"
}
