// Package admin is what the operator sees and does: the API, and who may use it.
// Metrics and health need no token; the rest does.
//
// Files: admin.go (the port), token.go (the token's file), routes.go (the API),
// box.go (what its routes answer), errors.go.
package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof" // which also registers itself at http.DefaultServeMux, which is not served
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Options is what New needs; every field but Names, Token and Pprof is
// required.
type Options struct {
	Metrics http.Handler            // /metrics
	Health  http.Handler            // /livez, /readyz
	Config  func(w io.Writer) error // /admin/config: the settings, secrets masked
	Box     *Box                    // /api/v1
	Token   string                  // empty: there is no access with a token
	Names   []string                // by which the port may be addressed, besides localhost and addresses
	Pprof   bool                    // /debug/pprof
	Log     *slog.Logger
}

// New returns the port's handler.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", o.Metrics)
	mux.Handle("GET /livez", o.Health)
	mux.Handle("GET /readyz", o.Health)
	behind := func(pattern string, h http.HandlerFunc) { mux.Handle("GET "+pattern, o.behindToken(h)) }
	behind("/admin/config", o.config)
	api := http.NewServeMux()
	routes(api, o.Box)
	mux.Handle(root, o.behindToken(api.ServeHTTP))
	if o.Pprof {
		behind("/debug/pprof/", pprof.Index)
		behind("/debug/pprof/cmdline", pprof.Cmdline)
		behind("/debug/pprof/profile", pprof.Profile)
		behind("/debug/pprof/symbol", pprof.Symbol)
		behind("/debug/pprof/trace", pprof.Trace)
	}
	return o.fromHere(mux)
}

func (o *Options) config(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := o.Config(w); err != nil {
		o.Log.Debug("the settings were not sent to their end", "err", err)
	}
}

// fromHere refuses requests that a web page makes the operator's browser send:
// under a foreign name that resolves to this port (DNS rebinding), or from
// another origin.
func (o *Options) fromHere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if !o.named(r.Host) || crossOrigin(r) {
			http.Error(w, "403 forbidden: HUBCAP_ADMIN_NAMES are the names of this port", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// named reports whether a Host header is valid for this port. An address always
// is: only a name can be made to resolve elsewhere.
func (o *Options) named(host string) bool {
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(o.Names, func(one string) bool { return strings.EqualFold(one, name) })
}

// crossOrigin reports whether a browser sent the request for a page of another
// origin.
func crossOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	from, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(from.Host, r.Host)
}

// behindToken requires the token as a bearer token.
func (o *Options) behindToken(next http.HandlerFunc) http.Handler {
	want := sha256.Sum256([]byte(o.Token)) // compared at constant length
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(shown))
		if o.Token == "" || !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="hubcap admin"`)
			http.Error(w, "401 unauthorized: show the token in admin-token of the data directory", http.StatusUnauthorized)
			return
		}
		next(w, r)
	})
}
