package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
)

// right is what a request may do.
type right uint8

const (
	nothing right = iota
	viewing       // it may read, but neither settings nor profiles
	acting        // everything
)

const (
	// maxWrong is how many wrong tokens and codes an address may show within a
	// minute. Then none of it are looked at until the minute is over.
	maxWrong  = 20
	wrongFor  = time.Minute
	addresses = 1024 // whose wrong tokens are counted; about 100 bytes each
)

// access decides who may do what at the port.
type access struct {
	tokens   map[right]func() string // empty for those that there are not
	sessions *sessions
	page     Page
	wrong    *memory.Memory[netip.Prefix, int]
	now      func() time.Time
	log      *slog.Logger
	logged   logging.Throttle
}

func newAccess(o *Options) *access {
	return &access{
		tokens: map[right]func() string{acting: o.Token, viewing: o.ViewToken}, sessions: newSessions(o.Box.Now),
		wrong: memory.New[netip.Prefix, int](addresses, o.Box.Now), now: o.Box.Now, log: o.Log,
	}
}

// errors of access, each with its status.
var (
	errNoToken   = &api.Error{Status: http.StatusUnauthorized, Detail: "show a token as Authorization: Bearer", Do: "it is in admin-token of the data directory; hubcap login prints a link for a browser"}
	errWrong     = &api.Error{Status: http.StatusUnauthorized, Detail: "this token is not right", Do: "it is in admin-token of the data directory"}
	errTooMany   = &api.Error{Status: http.StatusTooManyRequests, Detail: "too many wrong tokens came from this address", Do: "try again after a minute, or from another address"}
	errViewOnly  = &api.Error{Status: http.StatusForbidden, Detail: "with this token or link one may only look", Do: "show the token in admin-token of the data directory"}
	errLink      = &api.Error{Status: http.StatusForbidden, Detail: "this link was used already, or is older than five minutes", Do: "hubcap login prints another one"}
	errForeign   = &api.Error{Status: http.StatusForbidden, Detail: "this is none of the names of this port", Do: "add it to HUBCAP_ADMIN_NAMES"}
	errOtherSite = &api.Error{Status: http.StatusForbidden, Detail: "a page of another origin has sent this request"}
)

// caller is who sends a request.
type caller struct {
	right right
	by    string
}

// callerKey is what a request's context has the caller under.
type callerKey struct{}

func callerOf(ctx context.Context) caller {
	if who, ok := ctx.Value(callerKey{}).(caller); ok {
		return who
	}
	return caller{acting, "socket"} // needs no access
}

// By returns by which way in a request came: socket, token or browser.
func By(ctx context.Context) string { return callerOf(ctx).by }

// MayAct reports whether who sends a request may change something.
func MayAct(ctx context.Context) bool { return callerOf(ctx).right == acting }

// of returns who sends a request, by its token or its cookie.
func (a *access) of(r *http.Request) (caller, *api.Error) {
	scheme, token, shown := strings.Cut(r.Header.Get("Authorization"), " ")
	if !shown {
		if right := a.sessions.of(r); right != nothing {
			return caller{right, "browser"}, nil
		}
		return caller{}, errNoToken
	}
	from := origin(r)
	if a.tooMany(from) {
		return caller{}, errTooMany
	}
	right := a.opens(token)
	if right == nothing || !strings.EqualFold(scheme, "Bearer") {
		a.failed(from)
		return caller{}, errWrong
	}
	return caller{right, "token"}, nil
}

// opens returns what a token lets one do. Hashes are compared, which have one
// length.
func (a *access) opens(token string) right {
	got := sha256.Sum256([]byte(token))
	for right, text := range a.tokens {
		if text == nil {
			continue
		}
		one := text()
		want := sha256.Sum256([]byte(one))
		if one != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return right
		}
	}
	return nothing
}

func (a *access) tooMany(from netip.Prefix) bool {
	n, _ := a.wrong.Get(from)
	return n >= maxWrong
}

func (a *access) failed(from netip.Prefix) {
	n, _ := a.wrong.Get(from)
	a.wrong.Put(from, n+1, wrongFor)
	if n+1 == maxWrong && a.logged.Allow(a.now()) {
		a.log.Warn("an address shows wrong tokens at the admin port; for a minute no token of it is looked at", "from", from.String())
	}
}

// origin returns the address of a request; of an IPv6 address its /64, in which
// one host may have as many addresses as it likes.
func origin(r *http.Request) netip.Prefix {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	at := peer.Addr().Unmap().WithZone("")
	bits := at.BitLen()
	if at.Is6() {
		bits = 64
	}
	prefix, _ := at.Prefix(bits) // bits are within the address
	return prefix
}

// require lets those requests through that may do what a handler does.
func (a *access) require(needed func(*http.Request) right, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, refused := a.of(r)
		if refused == nil && who.right < needed(r) {
			refused = errViewOnly
		}
		if refused != nil {
			if refused.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="hubcap admin"`)
			}
			if refused == errTooMany {
				w.Header().Set("Retry-After", strconv.Itoa(int(wrongFor.Seconds())))
			}
			refuse(w, *refused)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
	})
}

// toAct and byMethod are what is needed: the one for everything, the other for
// what changes something.
func toAct(*http.Request) right { return acting }

func byMethod(r *http.Request) right {
	if safe(r) {
		return viewing
	}
	return acting
}

func safe(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// fromHere refuses requests that a web page makes the operator's browser send:
// under a foreign name that resolves to this port (DNS rebinding), or from
// another origin. A link on another page may lead here.
func fromHere(names []string, next http.Handler) http.Handler {
	unsafe := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case !named(r.Host, names):
			refuse(w, *errForeign)
		case unsafe.Check(r) != nil, crossOrigin(r) && !navigates(r):
			refuse(w, *errOtherSite)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// named reports whether a Host header is valid for this port. An address always
// is: only a name can be made to resolve elsewhere.
func named(host string, names []string) bool {
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(names, func(one string) bool { return strings.EqualFold(one, name) })
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

// navigates reports whether a browser sent the request to show the answer as a
// page. The cookie is not sent with it, and the page that has the link cannot
// read the answer.
func navigates(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
