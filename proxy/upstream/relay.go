package upstream

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry"

	"hubcap/proxy/memory"
)

// As returns a client that asks on behalf of a client of hubcap: with the bearer
// token that was shown, or without any. What that may not pull is not fetched in
// another way: the registry's refusal is the Error, with the Challenge for the
// client. It shares nothing with other clients but connections and the state of
// hosts.
func (c *Client) As(token string) *Client {
	as := *c
	as.caller = &caller{token: token}
	as.locations = memory.New[string, *url.URL](locationsKept, c.o.Now)
	return &as
}

// caller is the client of hubcap on whose behalf a Client of As asks.
type caller struct{ token string }

// relay sends req with the caller's token and no other credential. The challenge
// that it returns is one for the caller.
func (c *Client) relay(req *http.Request) (*http.Response, error) {
	authorization := ""
	if c.caller.token != "" {
		authorization = "Bearer " + c.caller.token
	}
	resp, err := c.do(req, authorization)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && sameOrigin(resp.Request.URL, c.o.URL) {
		c.guard.relayChallenge(resp)
	}
	return resp, err
}

// Ping reports, by a nil error, that the registry lets the caller in.
func (c *Client) Ping(ctx context.Context) error { return c.admitted(ctx, c.relay) }

// relayChallenge reduces a challenge to what a client may be told: a Bearer
// realm that is one of the token hosts, and the service. Clients answer with
// their password, so a registry that wants the password itself, or names another
// token service, is not relayed.
func (g *guard) relayChallenge(resp *http.Response) {
	fields := resp.Header.Values("WWW-Authenticate")
	resp.Header.Del("WWW-Authenticate")
	ch := g.choose(fields, false)
	realm, err := url.Parse(ch.realm)
	if ch.realm == "" || err != nil {
		return
	}
	realm.RawQuery = ownQuery(realm).Encode()
	challenge := "Bearer realm=" + strconv.Quote(printable(realm.String())) + ",service=" + strconv.Quote(ch.service)
	if repository, ok := repositoryOf(resp.Request.URL.Path, g.URL.Path); ok {
		challenge += ",scope=" + strconv.Quote("repository:"+repository+":pull")
	}
	resp.Header.Set("WWW-Authenticate", challenge)
}

// repositoryOf returns the repository that a path of the registry at base names.
// Scopes are made of it, so it must be a valid name and nothing else.
func repositoryOf(path, base string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/v2/")
	if !ok {
		return "", false
	}
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(rest, kind); i > 0 {
			name = rest[:i]
			return name, registry.Reference{Repository: name}.ValidateRepository() == nil
		}
	}
	return "", false
}
