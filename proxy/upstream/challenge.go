package upstream

import (
	"regexp"
	"strings"
)

// The schemes of challenges that can be met.
const (
	schemeBasic  = "basic"
	schemeBearer = "bearer"
)

// challenge is what a registry's 401 asks for (RFC 9110, 11.6.1, and the
// distribution project's token authentication). The zero value is none.
type challenge struct {
	scheme  string
	realm   string
	service string
	scope   string
}

// maxChallenge bounds how much of a WWW-Authenticate header is read.
const maxChallenge = 8 << 10

// parseChallenges returns the Basic and Bearer challenges of one
// WWW-Authenticate field, which is a list of challenges of any scheme. It stops
// at a syntax error.
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
		case scheme == schemeBasic:
			all = append(all, challenge{scheme: scheme})
		case scheme == schemeBearer && twice: // ambiguous
			return all
		case scheme == schemeBearer && c.realm != "":
			all = append(all, c)
		}
	}
}

// token68 matches what a scheme may have in place of parameters, as Negotiate
// has (RFC 9110, 11.2).
var token68 = regexp.MustCompile(`^ +[A-Za-z0-9._~+/-]+=*[ \t]*(?:,|$)`)

// readParameters parses the parameters behind a scheme. It returns the rest, and
// whether a parameter occurs twice.
func (c *challenge) readParameters(s string) (rest string, twice bool) {
	if blob := token68.FindString(s); blob != "" {
		return s[len(blob):], false
	}
	seen := map[string]bool{}
	for rest = s; ; {
		name, value, after, ok := parseParameter(strings.TrimLeft(rest, " \t,"))
		if !ok {
			return rest, twice // another challenge may follow
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

// choose returns the challenge among a 401's fields that can be met: the first
// Bearer one that names a token host, or Basic if no Bearer is put and there are
// credentials; else the zero value. A Bearer challenge without a token host is
// logged.
func (g *guard) choose(fields []string, logsIn bool) challenge {
	var bearer, basic challenge
	for _, field := range fields {
		for _, ch := range parseChallenges(field) {
			switch {
			case ch.scheme == schemeBasic:
				basic = ch
			case g.isTokenService(ch.realm):
				ch.service, ch.scope = printable(ch.service), foreignScopes(ch.scope)
				return ch
			case bearer.scheme == "":
				bearer = ch
			}
		}
	}
	if bearer.scheme != "" {
		g.refuseRealm(bearer.realm)
		return challenge{}
	}
	if !logsIn {
		return challenge{}
	}
	return basic
}

// foreignScopes returns the parts of a challenge's scope that name no
// repository.
func foreignScopes(scope string) string {
	var kept []string
	for _, s := range strings.Fields(printable(scope)) {
		if !strings.HasPrefix(s, "repository") { // "repository(plugin):" too
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, " ")
}

// parseParameter parses one auth-param: token "=" ( token / quoted-string ).
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

// parseQuoted parses a quoted-string behind its opening quote (RFC 9110,
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

// notTokenChar reports whether r is no tchar (RFC 9110, 5.6.2).
func notTokenChar(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// printable returns the characters of s that may stand in a quoted header
// parameter: printable ASCII without quotes and backslashes.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, s)
}
