// Package admin is what the operator sees and does: the API, and who may use it.
// Metrics and health need no token; the rest does.
//
// Files: admin.go (the ways in), access.go (who may do what), token.go (files with
// tokens), login.go (browsers), routes.go (the API), box.go, images.go, tags.go and
// bundle.go (what its routes answer), errors.go, events.go (what has happened),
// watch.go (where that comes from), stream.go (how it is sent).
package admin

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof" // which also registers itself at http.DefaultServeMux, which is not served

	"hubcap/proxy/admin/api"
)

// Page is what people see of the port in a browser.
type Page interface {
	http.Handler
	// SignIn answers with a form that sends a token to POST /login, and the path in
	// the query's next with it. wrong is why the last one did not open anything; nil
	// for none.
	SignIn(w http.ResponseWriter, r *http.Request, wrong *api.Error)
}

// Options is what New needs; every field but the tokens, Names and Pprof is
// required.
type Options struct {
	Metrics http.Handler            // /metrics
	Health  http.Handler            // /livez, /readyz
	Config  func(w io.Writer) error // /admin/config: the settings, secrets masked
	Box     *Box                    // /api/v1
	// Page makes what answers everything else, out of the handler of the API.
	Page      func(routes http.Handler) Page
	Token     func() string // for everything; nil, or empty: there is no such access
	ViewToken func() string // for what changes nothing
	Address   string        // of the port, with its scheme, for login links
	Names     []string      // by which the port may be addressed, besides localhost and addresses
	Pprof     bool          // /debug/pprof
	Log       *slog.Logger
}

// New returns the handler of the port, and that of the socket, which needs no
// token: only hubcap's own user, and root, can connect to it.
func New(o Options) (port, socket http.Handler) {
	a := newAccess(&o)
	routes := newAPI(o.Box, a.sessions.link(o.Address))
	a.page = o.Page(routes)
	free := func(_ func(*http.Request) right, h http.Handler) http.Handler { return h }
	return fromHere(o.Names, o.handler(a, routes, a.require, a.signedIn)), o.handler(a, routes, free, func(h http.Handler) http.Handler { return h })
}

// handler returns the handler of a way in. guard lets those through who may do
// what a handler does, signedIn those who may see the page.
func (o *Options) handler(
	a *access, routes http.Handler, guard func(needed func(*http.Request) right, h http.Handler) http.Handler, signedIn func(page http.Handler) http.Handler,
) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", o.Metrics)
	mux.Handle("GET /livez", o.Health)
	mux.Handle("GET /readyz", o.Health)
	mux.HandleFunc("GET /login", a.login)
	mux.HandleFunc("POST /login", a.loginByToken)
	mux.HandleFunc("POST /logout", a.logout)
	mux.Handle(root, guard(byMethod, routes))
	mux.Handle("GET /admin/config", guard(toAct, http.HandlerFunc(o.config)))
	mux.Handle("GET /static/", a.page)    // its style and script, which tell nothing
	mux.HandleFunc("/v2/", http.NotFound) // this is no registry, and a client is to notice
	mux.Handle("/", signedIn(guard(byMethod, a.page)))
	if o.Pprof {
		for path, h := range map[string]http.HandlerFunc{
			"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
		} {
			mux.Handle("GET /debug/pprof/"+path, guard(toAct, h))
		}
	}
	return mux
}

func (o *Options) config(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := o.Config(w); err != nil {
		o.Log.Debug("the settings were not sent to their end", "err", err)
	}
}
