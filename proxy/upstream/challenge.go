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
		found := schemeName.FindStringSubmatch(rest)
		if found == nil {
			return all
		}
		rest = rest[len(found[0])-len(found[2]):]
		c := challenge{scheme: strings.ToLower(found[1])}
		var twice bool
		if strings.HasPrefix(rest, " ") {
			rest, twice = c.readParameters(rest)
		}
		switch {
		case c.scheme == schemeBasic:
			all = append(all, challenge{scheme: schemeBasic})
		case c.scheme == schemeBearer && twice: // ambiguous
			return all
		case c.scheme == schemeBearer && c.realm != "":
			all = append(all, c)
		}
	}
}

// The syntax of challenges (RFC 9110, 5.6 and 11).
const (
	tchars       = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
	quotedString = `"((?:[^"\\[:cntrl:]]|\t|\\[^[:cntrl:]]|\\\t)*)"`
)

var (
	schemeName = regexp.MustCompile(`^[ \t,]*(` + tchars + `)([ ,]|$)`)
	authParam  = regexp.MustCompile(`^[ \t,]*(` + tchars + `)[ \t]*=[ \t]*(?:(` + tchars + `)|` + quotedString + `)`)
	quotedPair = regexp.MustCompile(`\\(.)`)

	// token68 is what a scheme may have in place of parameters, as Negotiate has.
	token68 = regexp.MustCompile(`^ +[A-Za-z0-9._~+/-]+=*[ \t]*(?:,|$)`)
)

// readParameters parses the parameters behind a scheme. It returns the rest, and
// whether a parameter occurs twice.
func (c *challenge) readParameters(s string) (rest string, twice bool) {
	if blob := token68.FindString(s); blob != "" {
		return s[len(blob):], false
	}
	seen := map[string]bool{}
	for rest = s; ; {
		found := authParam.FindStringSubmatch(rest)
		if found == nil {
			return rest, twice // another challenge may follow
		}
		name, value := strings.ToLower(found[1]), found[2]+quotedPair.ReplaceAllString(found[3], "$1")
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
		rest = rest[len(found[0]):]
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
