package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"hubcap/proxy/admin/api"
)

const (
	codeFor     = 5 * time.Minute     // how long a login link works
	unusedFor   = 24 * time.Hour      // how long a browser stays logged in without a request
	sessionFor  = 30 * 24 * time.Hour // how long at most
	maxSessions = 64                  // browsers that are logged in, and links that were not used; the oldest make room

	cookieName = "hubcap-admin"
)

// sessions are the browsers that are logged in, and the login links. They are
// kept in memory only. Codes and cookies are random and of 130 bits; what is kept
// is their hash.
type sessions struct {
	now func() time.Time

	mu     sync.Mutex
	links  map[[sha256.Size]byte]session // by code
	logged map[[sha256.Size]byte]session // by cookie
}

type session struct {
	right       right
	began, used time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, links: make(map[[sha256.Size]byte]session), logged: make(map[[sha256.Size]byte]session)}
}

// add makes a link or a session, and returns its secret.
func (s *sessions) add(to map[[sha256.Size]byte]session, right right) (secret string) {
	secret = rand.Text()
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(to) >= maxSessions {
		delete(to, slices.MinFunc(slices.Collect(maps.Keys(to)), func(a, b [sha256.Size]byte) int { return to[a].used.Compare(to[b].used) }))
	}
	to[sha256.Sum256([]byte(secret))] = session{right: right, began: now, used: now}
	return secret
}

// exchange returns the secret of a new session for a link's code, which is then
// used up; empty if the link does not work.
func (s *sessions) exchange(code string) (secret string) {
	key := sha256.Sum256([]byte(code))
	s.mu.Lock()
	link, ok := s.links[key]
	delete(s.links, key)
	s.mu.Unlock()
	if !ok || s.now().Sub(link.began) >= codeFor {
		return ""
	}
	return s.add(s.logged, link.right)
}

// of returns what the session of a request's cookie may do.
func (s *sessions) of(r *http.Request) right {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return nothing
	}
	key, now := sha256.Sum256([]byte(cookie.Value)), s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.logged[key]
	if !ok {
		return nothing
	}
	if now.Sub(one.used) >= unusedFor || now.Sub(one.began) >= sessionFor {
		delete(s.logged, key)
		return nothing
	}
	one.used = now
	s.logged[key] = one
	return one.right
}

// end ends the session of a request's cookie.
func (s *sessions) end(r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.logged, sha256.Sum256([]byte(cookie.Value)))
	}
}

// link is the route that makes a login link.
func (s *sessions) link(address string) func(context.Context, *api.LoginRequest) (*api.Login, error) {
	return func(_ context.Context, in *api.LoginRequest) (*api.Login, error) {
		right := acting
		if in.View {
			right = viewing
		}
		path := "/login?code=" + s.add(s.links, right)
		return &api.Login{URL: address + path, Path: path, Expires: s.now().Add(codeFor)}, nil
	}
}

// login answers GET /login: a link's code becomes a cookie. The page that it
// leads to is asked for by a page of this port, since a browser that came from
// another one does not send the cookie with a redirect.
func (a *access) login(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Referrer-Policy", "no-referrer") // the code is in the address
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	from := origin(r)
	if a.sessions.of(r) == nothing {
		if a.tooMany(from) {
			refuse(w, *errTooMany)
			return
		}
		secret := a.sessions.exchange(r.URL.Query().Get("code"))
		if secret == "" {
			a.failed(from)
			refuse(w, api.Error{
				Status: http.StatusForbidden, Detail: "this link was used already, or is older than five minutes", Do: "hubcap login prints another one",
			})
			return
		}
		http.SetCookie(w, cookie(r, secret, int(sessionFor.Seconds())))
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, loggedIn) // the client has left
}

const loggedIn = `<!doctype html>
<html lang="en"><meta http-equiv="refresh" content="0; url=/"><title>hubcap</title><p>You are logged in. <a href="/">Go on</a></p></html>
`

// logout answers POST /logout.
func (a *access) logout(w http.ResponseWriter, r *http.Request) {
	a.sessions.end(r)
	http.SetCookie(w, cookie(r, "", -1))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// cookie returns the cookie of a session. Scripts do not see it, and other sites'
// pages do not cause it to be sent.
func cookie(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure where the port speaks TLS
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
