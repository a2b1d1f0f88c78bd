package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/admin/api"
)

// visitor sends requests from one address to a handler, and keeps its cookie.
type visitor struct {
	t      *testing.T
	h      http.Handler
	from   string // address and port
	token  string
	cookie *http.Cookie
}

func (v *visitor) do(method, path, body string) *httptest.ResponseRecorder {
	v.t.Helper()
	r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	r.RemoteAddr = v.from
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if v.token != "" {
		r.Header.Set("Authorization", "Bearer "+v.token)
	}
	if v.cookie != nil {
		r.AddCookie(v.cookie)
	}
	w := httptest.NewRecorder()
	v.h.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		v.cookie = c
	}
	return w
}

// want sends a request and checks the status of its answer.
func (v *visitor) want(status int, method, path, body string) {
	v.t.Helper()
	if w := v.do(method, path, body); w.Code != status {
		v.t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
	}
}

// link has the socket make a login link, and returns its path.
func (v *visitor) link(body string) string {
	v.t.Helper()
	w := v.do("POST", "/api/v1/login", body)
	var l api.Login
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 || l.URL != "http://box:5001"+l.Path {
		v.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return l.Path
}

// TestLoginLink shows that a link works once and for five minutes, that the
// browser then may do what the link was made for, and for how long.
func TestLoginLink(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	port, socket := build(Options{Token: is(token), Address: "http://box:5001", Box: &Box{Now: clock.Now}})
	operator := &visitor{t: t, h: socket}
	browser := func() *visitor { return &visitor{t: t, h: port, from: "192.0.2.1:4711"} }

	full, other := browser(), browser()
	path := operator.link("{}")
	w := full.do("GET", path, "")
	if w.Code != 200 || full.cookie == nil || !full.cookie.HttpOnly || full.cookie.SameSite != http.SameSiteStrictMode || full.cookie.Secure {
		t.Fatalf("%d %v %s", w.Code, full.cookie, w.Body)
	}
	full.want(200, "GET", "/admin/config", "")
	full.want(200, "POST", "/api/v1/login", "{}")
	full.want(200, "GET", path, "") // the page is loaded again
	other.want(403, "GET", path, "")
	other.want(401, "GET", "/admin/config", "")

	view := browser()
	view.want(200, "GET", operator.link(`{"view":true}`), "")
	view.want(200, "GET", "/api/v1/openapi.json", "")
	view.want(403, "GET", "/admin/config", "")
	view.want(403, "POST", "/api/v1/login", "{}")
	view.want(303, "POST", "/logout", "")
	view.want(401, "GET", "/api/v1/openapi.json", "")

	late := operator.link("{}")
	clock.Advance(codeFor)
	other.want(403, "GET", late, "")

	for range 40 { // used each 23 hours
		clock.Advance(23 * time.Hour)
		if full.do("GET", "/admin/config", "").Code != 200 {
			break
		}
	}
	if since := clock.Now().Sub(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)); since < sessionFor || since > sessionFor+24*time.Hour {
		t.Errorf("logged in for %v, want %v", since, sessionFor)
	}
	short := browser()
	short.want(200, "GET", operator.link("{}"), "")
	clock.Advance(unusedFor)
	short.want(401, "GET", "/admin/config", "")
}

// TestSessionsAreBounded logs in more browsers than are remembered.
func TestSessionsAreBounded(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	port, socket := build(Options{Address: "http://box:5001", Box: &Box{Now: clock.Now}})
	operator := &visitor{t: t, h: socket}
	var first, last *visitor
	for range maxSessions + 1 {
		clock.Advance(time.Second)
		last = &visitor{t: t, h: port, from: "192.0.2.1:4711"}
		last.want(200, "GET", operator.link("{}"), "")
		if first == nil {
			first = last
		}
	}
	first.want(401, "GET", "/admin/config", "")
	last.want(200, "GET", "/admin/config", "")
}

// TestWrongTokens shows 1,000 wrong tokens and codes from one address: none opens
// anything, most are not looked at, and other addresses notice nothing.
func TestWrongTokens(t *testing.T) {
	clock := testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	port, socket := build(Options{Token: is(token), Address: "http://box:5001", Box: &Box{Now: clock.Now}})
	browser := &visitor{t: t, h: port, from: "[2001:db8::1]:9"}
	browser.want(200, "GET", (&visitor{t: t, h: socket}).link("{}"), "")
	answers := make(map[int]int)
	for i := range 1000 {
		guesser := &visitor{t: t, h: port, from: "[2001:db8::" + strconv.FormatInt(int64(i), 16) + "]:1", token: token[:len(token)-1] + "g"}
		path := "/admin/config"
		if i%2 == 1 {
			guesser.token, path = "", "/login?code="+strconv.Itoa(i)
		}
		answers[guesser.do("GET", path, "").Code]++
	}
	if answers[401]+answers[403] != maxWrong || answers[429] != 1000-maxWrong {
		t.Errorf("%v, want %d looked at", answers, maxWrong)
	}
	right := &visitor{t: t, h: port, from: "[2001:db8::1]:1", token: token}
	right.want(429, "GET", "/admin/config", "")
	browser.want(200, "GET", "/admin/config", "")
	(&visitor{t: t, h: port, from: "[2001:db8:1::1]:1", token: token}).want(200, "GET", "/admin/config", "")
	(&visitor{t: t, h: port, from: "192.0.2.1:1", token: token}).want(200, "GET", "/admin/config", "")
	clock.Advance(wrongFor)
	right.want(200, "GET", "/admin/config", "")
}

// TestLoginByToken posts tokens as the form does: the right ones become cookies, and
// the browser is led on within this port alone.
func TestLoginByToken(t *testing.T) {
	port, _ := build(Options{Token: is(token), ViewToken: is(viewToken)})
	for _, tc := range []struct{ token, next, location string }{
		{token, "/images?q=a", "/images?q=a"}, {" " + viewToken + "\n", "", "/"}, {token, "//evil.example.com", "/"}, {token, `/\evil.example.com`, "/"},
		{token, "https://evil.example.com", "/"}, {token[1:], "/", ""}, {"", "/", ""},
	} {
		v := &visitor{t: t, h: port, from: "192.0.2.1:1"}
		form := url.Values{"token": {tc.token}, "next": {tc.next}}
		r := httptest.NewRequest("POST", "http://localhost/login", strings.NewReader(form.Encode()))
		r.RemoteAddr = v.from
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		port.ServeHTTP(w, r)
		if tc.location == "" {
			if w.Code != 401 || len(w.Result().Cookies()) > 0 || !strings.Contains(w.Body.String(), "token, please") {
				t.Errorf("%+v: %d %s", tc, w.Code, w.Body)
			}
			continue
		}
		if w.Code != 303 || w.Header().Get("Location") != tc.location {
			t.Errorf("%+v: %d %v", tc, w.Code, w.Header())
		}
		v.cookie = w.Result().Cookies()[0]
		v.want(200, "GET", "/images", "")
		v.want(map[bool]int{true: 403, false: 200}[strings.Contains(tc.token, viewToken)], "POST", "/do/purge", "")
	}
}
