package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/memory"
)

const (
	codeFor     = 5 * time.Minute     // how long a login link works
	unusedFor   = 24 * time.Hour      // how long a browser stays logged in without a request
	sessionFor  = 30 * 24 * time.Hour // how long at most
	maxSessions = 64                  // browsers that are logged in, and links that were not used; those used longest ago make room

	maxForm = 4 << 10 // bytes of a form with a token

	cookieName = "hubcap-admin"
)

// sessions are the browsers that are logged in, and the login links. They are
// kept in memory only. Codes and cookies are random and of 130 bits; what is kept
// is their hash.
type sessions struct {
	now    func() time.Time
	mu     sync.Mutex // a link works once, and nothing revives a session that is ended
	links  *memory.Memory[secretHash, right]
	logged *memory.Memory[secretHash, session] // by cookie
}

type secretHash [sha256.Size]byte

type session struct {
	right right
	began time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, links: memory.New[secretHash, right](maxSessions, now), logged: memory.New[secretHash, session](maxSessions, now)}
}

func hashOf(secret string) secretHash { return sha256.Sum256([]byte(secret)) }

// begin makes a session, and returns its secret.
func (s *sessions) begin(right right) (secret string) {
	secret = rand.Text()
	s.logged.Put(hashOf(secret), session{right, s.now()}, unusedFor)
	return secret
}

// exchange returns the secret of a new session for a link's code, which is then
// used up; empty if the link does not work.
func (s *sessions) exchange(code string) (secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	right, ok := s.links.Get(hashOf(code))
	if !ok {
		return ""
	}
	s.links.Remove(hashOf(code))
	return s.begin(right)
}

// of returns what the session of a request's cookie may do.
func (s *sessions) of(r *http.Request) right {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := hashOf(cookie.Value)
	one, ok := s.logged.Get(key)
	if !ok {
		return nothing
	}
	s.logged.Put(key, one, min(unusedFor, one.began.Add(sessionFor).Sub(s.now())))
	return one.right
}

// end ends the session of a request's cookie.
func (s *sessions) end(r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logged.Remove(hashOf(cookie.Value))
	}
}

// link is the route that makes a login link.
func (s *sessions) link(address string) answerer[api.LoginRequest, api.Login] {
	return func(_ context.Context, in *api.LoginRequest) (api.Login, error) {
		right := acting
		if in.View {
			right = viewing
		}
		code := rand.Text()
		s.links.Put(hashOf(code), right, codeFor)
		path := "/login?code=" + code
		return api.Login{URL: address + path, Path: path, Expires: s.now().Add(codeFor)}, nil
	}
}

// login answers GET /login: a link's code becomes a cookie; without a code there
// is a form for a token.
func (a *access) login(w http.ResponseWriter, r *http.Request) {
	from, code := origin(r), r.URL.Query().Get("code")
	switch {
	case a.sessions.of(r) != nothing:
	case code == "":
		a.page.SignIn(w, r, nil)
		return
	case a.tooMany(from):
		a.page.SignIn(w, r, errTooMany)
		return
	default:
		secret := a.sessions.exchange(code)
		if secret == "" {
			a.failed(from)
			a.page.SignIn(w, r, errLink)
			return
		}
		http.SetCookie(w, cookie(r, secret, int(sessionFor.Seconds())))
	}
	onward(w, "/")
}

// loginByToken answers POST /login: a token becomes a cookie.
func (a *access) loginByToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	from := origin(r)
	if a.tooMany(from) {
		a.page.SignIn(w, r, errTooMany)
		return
	}
	right := a.opens(strings.TrimSpace(r.PostFormValue("token")))
	if right == nothing {
		a.failed(from)
		a.page.SignIn(w, r, errWrong)
		return
	}
	http.SetCookie(w, cookie(r, a.sessions.begin(right), int(sessionFor.Seconds())))
	next := r.PostFormValue("next")
	if len(next) < 2 || next[0] != '/' || strings.ContainsAny(next[1:2], `/\`) { // of another host
		next = "/"
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// signedIn sends browsers that are not logged in to the form for a token.
func (a *access) signedIn(page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "" || !safe(r) || a.sessions.of(r) != nothing:
			page.ServeHTTP(w, r)
		case crossOrigin(r): // the browser may have a cookie that it does not send from there
			onward(w, r.URL.RequestURI())
		default:
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		}
	})
}

// onward answers with a page that leads to a path. The path is asked for by a page
// of this port: a browser that came from another one does not send the cookie with
// a redirect.
func onward(w http.ResponseWriter, path string) {
	h := w.Header()
	h.Set("Referrer-Policy", "no-referrer") // a code may be in the address
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	path = html.EscapeString(path)
	_, _ = fmt.Fprintf(w, onwardPage, path, path) // the client has left
}

const onwardPage = `<!doctype html>
<html lang="en"><meta http-equiv="refresh" content="0; url=%s"><title>hubcap</title><p><a href="%s">Go on</a></p></html>
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
