// Package page is the page of the admin port: HTML and SVG that the server makes,
// for a browser with or without script. All that it shows and does is asked of the
// API in the name of who looks at it; it knows no room of the box.
//
// Files: page.go (requests and answers, the API), now.go (the first page), chart.go
// (its charts), lists.go (the other pages), act.go (forms: what will happen, and do),
// actions.go (which there are), templates/, static/ (style, script, icon).
package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/setup"
	"hubcap/proxy/units"
)

// Options is what New needs. Every field is required.
type Options struct {
	API    http.Handler                   // /api/v1/
	MayAct func(ctx context.Context) bool // whether who sends a request may change something
	Setup  func(host string) setup.Box    // what clients are told that reach the box by this name or address
	Now    func() time.Time
	Log    *slog.Logger
}

// Page answers the requests of browsers.
type Page struct {
	o   Options
	mux *http.ServeMux
}

// New returns a Page.
func New(o Options) *Page {
	p := &Page{o: o, mux: http.NewServeMux()}
	for path, one := range map[string]struct {
		name string
		data func(*request) any
	}{
		"/{$}": {"now", now}, "/images": {"images", images}, "/image": {"image", image}, "/outage": {"outage", outage}, "/jobs": {"jobs", jobs},
		"/upstreams": {"upstreams", upstreams}, "/clients": {"clients", clients}, "/requests": {"requests", requests}, "/next": {"next", next},
		"/setup": {"setup", setUp}, "/help": {"help", help}, "/": {"missing", missing},
	} {
		p.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { p.show(w, r, one.name, one.data) })
	}
	p.mux.HandleFunc("GET /do/{action}", p.plan)
	p.mux.HandleFunc("POST /do/{action}", p.do)
	p.mux.HandleFunc("GET /theme", theme)
	p.mux.Handle("GET /static/", http.FileServerFS(static))
	return p
}

//go:embed static
var static embed.FS

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"bytes": units.Bytes, "bytesOf": units.BytesOf, "ratio": units.Ratio, "percent": units.Percent, "seconds": units.Seconds,
	"count": units.Count[int], "short": units.Digest[digest.Digest], "limit": words.Limit, "credentials": words.Credentials, "image": words.Request, "took": words.Took, "from": words.From,
	"evicting": evicting, "code": setup.Code, "button": button, "upper": upper, "query": query,
}).ParseFS(files, "templates/*.html"))

// policy lets the page use what is of this port, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP answers a request.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w)
	p.mux.ServeHTTP(w, r)
}

// protect sets what an answer forbids. Other sites are not told where a browser comes
// from: a login code or the names of images may be in the address. This one is: a form
// without an origin would be refused.
func protect(w http.ResponseWriter) {
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "same-origin")
}

// request is a request for a page. err is the first thing that the API has refused.
type request struct {
	p    *Page
	ctx  context.Context
	url  *url.URL
	q    url.Values
	host string
	err  error
}

func (p *Page) request(r *http.Request) *request {
	return &request{p: p, ctx: r.Context(), url: r.URL, q: r.URL.Query(), host: r.Host}
}

// view is what a template sees.
type view struct {
	words.Moment
	Name   string // of the template
	Theme  string // light or dark; empty for what the browser prefers
	Path   string // with the query
	MayAct bool
	Status *api.Status // nil where it is not known who looks
	Done   string      // what an action has done
	Error  *api.Error
	Data   any
}

// Nav is the pages in the menu.
func (view) Nav() []link {
	return []link{
		{"/", "Now"}, {"/images", "Images"}, {"/outage", "Outage"}, {"/jobs", "Jobs"}, {"/upstreams", "Upstreams"},
		{"/clients", "Clients"}, {"/requests", "Requests"}, {"/next", "Next to go"}, {"/setup", "Set-up"}, {"/help", "Help"},
	}
}

// At reports whether the page is at a path of the menu.
func (v *view) At(path string) bool {
	at, _, _ := strings.Cut(v.Path, "?")
	return at == path
}

// link is a link with its text.
type link struct{ Path, Text string }

// show answers with a page.
func (p *Page) show(w http.ResponseWriter, r *http.Request, name string, data func(*request) any) {
	q := p.request(r)
	v := p.view(r, name)
	if v.Data = data(q); q.err != nil {
		v.Name, v.Error = "error", problem(q.err)
	}
	p.render(w, v)
}

// fail answers with a page that says what is wrong.
func (p *Page) fail(w http.ResponseWriter, r *http.Request, err error) {
	p.show(w, r, "error", func(q *request) any { q.err = err; return nil })
}

func (p *Page) view(r *http.Request, name string) *view {
	v := &view{Moment: words.Moment{Now: p.o.Now()}, Name: name, Path: r.URL.RequestURI(), MayAct: p.o.MayAct(r.Context())}
	if a, ok := actions[r.URL.Query().Get("done")]; ok {
		v.Done = a.Done
	}
	if cookie, err := r.Cookie(themeCookie); err == nil && (cookie.Value == "dark" || cookie.Value == "light") {
		v.Theme = cookie.Value
	}
	if status, err := ask[api.Status](p.request(r), http.MethodGet, "status", nil, nil); err == nil {
		v.Status = &status
	}
	return v
}

// render writes a page. What a template finds wrong is a mistake of hubcap's own.
func (p *Page) render(w http.ResponseWriter, v *view) {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, v.Name, v); err != nil {
		p.o.Log.Error("a page of the admin port cannot be made", "page", v.Name, "err", err)
		http.Error(w, "this page cannot be made; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.Error != nil {
		w.WriteHeader(v.Error.Status)
	}
	_, _ = out.WriteTo(w) // the browser has left
}

// SignIn answers with the form for a token.
func (p *Page) SignIn(w http.ResponseWriter, r *http.Request, wrong *api.Error) {
	protect(w)
	v := &view{Moment: words.Moment{Now: p.o.Now()}, Name: "signin", Error: wrong, Data: r.FormValue("next")}
	p.render(w, v)
}

func missing(r *request) any {
	r.err = &api.Error{Status: http.StatusNotFound, Detail: "there is no page " + r.url.Path}
	return nil
}

const (
	themeCookie = "hubcap-theme"
	themeFor    = 400 * 24 * 60 * 60 // seconds
)

// theme answers GET /theme: it remembers a choice of colours and leads back.
func theme(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // it is no secret
		Name: themeCookie, Value: r.URL.Query().Get("to"), Path: "/", MaxAge: themeFor, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	back, err := url.Parse(r.Referer())
	if err != nil || back.Host != r.Host {
		back = &url.URL{Path: "/"}
	}
	http.Redirect(w, r, back.RequestURI(), http.StatusSeeOther) //nolint:gosec // a path of this port, whatever the header says
}

// answer takes what the API answers.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// get returns what a route of the API answers that changes nothing. What it refuses
// becomes the request's error, after which nothing more is asked.
func get[T any](r *request, route string, query url.Values) (out T) {
	if r.err == nil {
		out, r.err = ask[T](r, http.MethodGet, route, query, nil)
	}
	return out
}

// ask asks the API in the name of who sends a request. The error is the API's.
func ask[T any](r *request, method, route string, query url.Values, body any) (out T, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return out, err
	}
	in, err := http.NewRequestWithContext(r.ctx, method, "/api/v1/"+route+"?"+query.Encode(), bytes.NewReader(text))
	if err != nil {
		return out, err
	}
	in.Header.Set("Content-Type", "application/json")
	got := &answer{header: make(http.Header), status: http.StatusOK}
	r.p.o.API.ServeHTTP(got, in)
	if got.status < http.StatusBadRequest {
		return out, json.Unmarshal(got.body.Bytes(), &out)
	}
	refused := &api.Error{Status: got.status}
	if err := json.Unmarshal(got.body.Bytes(), refused); err != nil {
		return out, err
	}
	return out, refused
}

// problem returns an error as the API has it.
func problem(err error) *api.Error {
	if refused, ok := errors.AsType[*api.Error](err); ok {
		return refused
	}
	return &api.Error{Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError), Detail: err.Error()}
}
