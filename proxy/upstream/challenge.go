package upstream

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
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

// parseChallenges reads the Basic and Bearer challenges of one
// WWW-Authenticate field, which is a list of challenges of any scheme. It ends
// at what it does not understand.
func parseChallenges(field string) (all []challenge) {
	if len(field) > maxChallenge {
		return nil
	}
	for rest := field; ; {
		rest = strings.TrimLeft(rest, " \t,")
		end := strings.IndexFunc(rest+",", notTokenChar)
		scheme := strings.ToLower(rest[:end])
		rest = rest[end:]
		if scheme == "" || rest != "" && rest[0] != ' ' && rest[0] != ',' {
			return all
		}
		c := challenge{scheme: scheme}
		var twice bool
		if strings.HasPrefix(rest, " ") {
			rest, twice = c.readParameters(rest)
		}
		switch {
		case scheme == "basic":
			all = append(all, challenge{scheme: scheme})
		case scheme == "bearer" && twice: // two readings of one challenge are one too many
			return all
		case scheme == "bearer" && c.realm != "":
			all = append(all, c)
		}
	}
}

// token68 matches what a scheme may have in place of parameters, as Negotiate
// has (RFC 9110, 11.2).
var token68 = regexp.MustCompile(`^ +[A-Za-z0-9._~+/-]+=*[ \t]*(?:,|$)`)

// readParameters reads what follows a scheme. It returns what comes after, and
// whether a parameter is there twice.
func (c *challenge) readParameters(s string) (rest string, twice bool) {
	if blob := token68.FindString(s); blob != "" {
		return s[len(blob):], false
	}
	seen := map[string]bool{}
	for rest = s; ; {
		name, value, after, ok := parseParameter(strings.TrimLeft(rest, " \t,"))
		if !ok {
			return rest, twice // another challenge may follow; this one has ended
		}
		twice = twice || seen[name]
		seen[name] = true
		switch name {
		case "realm":
			c.realm = value
		case "service":
			c.service = value
		case "scope":
			c.scope = value
		}
		rest = after
	}
}

// bearer returns the first Bearer challenge among a 401's fields that names a
// token host, and whether there is any Bearer challenge at all. Where none
// names a token host, it says so to the operator.
func (c *confined) bearer(fields []string) (found challenge, asked bool) {
	foreign := ""
	for _, field := range fields {
		for _, ch := range parseChallenges(field) {
			switch {
			case ch.scheme != "bearer":
			case c.tokenService(ch.realm):
				return ch, true
			case !asked:
				foreign, asked = ch.realm, true
			}
		}
	}
	if asked {
		c.refuseRealm(foreign)
	}
	return challenge{}, asked
}

// basic reports whether there is a Basic challenge among a 401's fields.
func basic(fields []string) bool {
	return slices.ContainsFunc(fields, func(field string) bool {
		return slices.Contains(parseChallenges(field), challenge{scheme: "basic"})
	})
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
// the realm under the registry's host if the realm is a token host; Basic where
// no Bearer is asked for and there are credentials; else none. No credential has
// been read yet.
func (c *confined) rewriteChallenge(req *http.Request, resp *http.Response) {
	fields := resp.Header.Values("WWW-Authenticate")
	resp.Header.Del("WWW-Authenticate")
	ch, asked := c.bearer(fields)
	switch {
	case ch.realm != "":
	case !asked && c.logsIn && basic(fields):
		resp.Header.Set("WWW-Authenticate", `Basic realm="registry"`)
		return
	default:
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
