package upstream

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// challenge is what a registry's 401 asks for (RFC 9110, 11.6.1, and the
// distribution project's token authentication).
type challenge struct {
	scheme  string // "basic" or "bearer"
	realm   string
	service string
	scope   string
}

// maxChallenge bounds how much of a WWW-Authenticate header is looked at.
const maxChallenge = 8 << 10

// parseChallenge reads the first challenge of a header that hubcap can meet.
// What it does not understand it does not take.
func parseChallenge(header string) (c challenge, ok bool) {
	if len(header) > maxChallenge {
		return challenge{}, false
	}
	scheme, rest, _ := strings.Cut(strings.TrimLeft(header, " \t"), " ")
	c.scheme = strings.ToLower(scheme)
	if c.scheme == "basic" {
		return challenge{scheme: c.scheme}, true
	}
	if c.scheme != "bearer" {
		return challenge{}, false
	}
	seen := map[string]bool{}
	for rest = strings.TrimLeft(rest, " \t,"); rest != ""; rest = strings.TrimLeft(rest, " \t,") {
		var name, value string
		name, value, rest, ok = parseParameter(rest)
		if !ok {
			break // another challenge may follow; this one has ended
		}
		if seen[name] {
			return challenge{}, false // two readings of one header are one too many
		}
		seen[name] = true
		switch name {
		case "realm":
			c.realm = value
		case "service":
			c.service = value
		case "scope":
			c.scope = value
		}
	}
	return c, c.realm != ""
}

// parseParameter reads one auth-param: token "=" ( token / quoted-string ).
func parseParameter(s string) (name, value, rest string, ok bool) {
	i := strings.IndexFunc(s, notTokenChar)
	if i <= 0 {
		return "", "", s, false
	}
	name = strings.ToLower(s[:i])
	s = strings.TrimLeft(s[i:], " \t")
	if !strings.HasPrefix(s, "=") {
		return "", "", s, false
	}
	s = strings.TrimLeft(s[1:], " \t")
	if strings.HasPrefix(s, `"`) {
		value, rest, ok = parseQuoted(s[1:])
		return name, value, rest, ok
	}
	i = strings.IndexFunc(s, notTokenChar)
	if i < 0 {
		i = len(s)
	}
	return name, s[:i], s[i:], i > 0
}

// parseQuoted reads a quoted-string behind its opening quote (RFC 9110,
// 5.6.4).
func parseQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return b.String(), s[i+1:], true
		}
		if c == '\\' && i+1 < len(s) {
			i++
			c = s[i]
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", "", false
		}
		b.WriteByte(c)
	}
	return "", "", false
}

// notTokenChar tells what is no tchar (RFC 9110, 5.6.2).
func notTokenChar(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// realmPath is where a token service is addressed on its way through the auth
// client: under the registry's own host. The auth client decides by itself
// which realms are fit for it, by rules that know nothing of the operator's
// list; here that list decides, and it alone.
//
// The path is another one in each process, so that no registry can send a
// redirect to it.
var realmPath = "/hubcap-token-service-" + rand.Text() + "/"

// guess answers a request that carries no token in the registry's place, with
// the challenge that it would put: one round trip less. Only an attempt's first
// request is answered so.
func guess(req *http.Request, home bool) *http.Response {
	a := attemptOf(req.Context())
	if a == nil || !home || a.sent {
		return nil
	}
	a.sent = true
	if a.challenge == "" || req.Header.Get("Authorization") != "" {
		return nil
	}
	a.guessed = true
	return &http.Response{
		StatusCode: http.StatusUnauthorized, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Www-Authenticate": {a.challenge}}, Body: http.NoBody, Request: req,
	}
}

// rewriteChallenge puts a challenge in place of resp's own: one that names
// the realm under the registry's host if the realm is a token host, none if
// it is not. No credential has been read yet.
func (c *confined) rewriteChallenge(req *http.Request, resp *http.Response) {
	headers := resp.Header.Values("WWW-Authenticate")
	resp.Header.Del("WWW-Authenticate")
	for _, header := range headers {
		ch, ok := parseChallenge(header)
		if !ok {
			continue
		}
		if ch.scheme == "basic" {
			resp.Header.Set("WWW-Authenticate", `Basic realm="registry"`)
			return
		}
		if !c.tokenService(ch.realm) {
			c.refuseRealm(ch.realm)
			return
		}
		at := url.URL{
			Scheme: req.URL.Scheme, Host: req.URL.Host,
			Path: realmPath + base64.RawURLEncoding.EncodeToString([]byte(ch.realm)),
		}
		challenge := "Bearer realm=" + strconv.Quote(at.String()) +
			",service=" + strconv.Quote(printable(ch.service)) + ",scope=" + strconv.Quote(foreignScopes(ch.scope))
		resp.Header.Set("WWW-Authenticate", challenge)
		if a := attemptOf(req.Context()); a != nil && req.Header.Get("Authorization") == "" {
			a.challenge = challenge
		}
		return
	}
}

// foreignScopes leaves of a challenge's scope what names no repository:
// repositories are named by hubcap, so that a registry cannot have it ask for
// a token that opens another one.
func foreignScopes(scope string) string {
	var kept []string
	for _, s := range strings.Fields(printable(scope)) {
		if !strings.HasPrefix(s, "repository") { // "repository(plugin):" too
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, " ")
}

// printable drops what has no place in a header that is written anew.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, s)
}

// realmOf is the inverse of what rewriteChallenge writes.
func realmOf(u *url.URL) (realm string, ok bool) {
	encoded, ok := strings.CutPrefix(u.Path, realmPath)
	if !ok {
		return "", false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(encoded)
	return string(decoded), err == nil
}
