package upstream

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry"

	"hubcap/proxy/memory"
)

// As returns a client that asks as a caller of hubcap: with the bearer token
// that he has shown, or without any. What he may not have, nobody gets for
// him: the registry's refusal is the Error, and the Challenge in it what it
// asks him for. It has nothing in common with other clients but connections.
func (c *Client) As(token string) *Client {
	his := *c
	his.caller = &caller{token: token}
	his.locations = memory.New[string, *url.URL](locationsKept, c.hosts.now)
	return &his
}

// caller is on whose behalf a Client of As asks.
type caller struct{ token string }

type callerKey struct{}

// relayed tells a request that is made for a caller.
func relayed(ctx context.Context) bool { return ctx.Value(callerKey{}) != nil }

// do sends req with the caller's token and nothing else. A redirect to another
// host does not carry it along.
func (a *caller) do(c *Client, req *http.Request) (*http.Response, error) {
	maps.Copy(req.Header, c.auth.Header)
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	return c.auth.Client.Do(req.WithContext(context.WithValue(req.Context(), callerKey{}, true)))
}

// Ping asks whether the registry lets the caller in at all.
func (c *Client) Ping(ctx context.Context) error {
	req, resp, err := c.follow(c.url.JoinPath("v2/"), func(at *url.URL) (*http.Request, *http.Response, error) {
		return c.exchange(ctx, http.MethodGet, at, nil, func(req *http.Request) (*http.Response, error) {
			return c.caller.do(c, req)
		})
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(req, resp)
	}
	return nil
}

// relayChallenge leaves of a challenge what a caller may be told: where a
// token is to be had, if that is one of the token hosts, and for which service.
// A caller answers with his password, so a registry that wants the password
// itself, or names another token service, challenges nobody through hubcap.
func (c *confined) relayChallenge(resp *http.Response) {
	fields := resp.Header.Values("WWW-Authenticate")
	resp.Header.Del("WWW-Authenticate")
	ch, _ := c.bearer(fields)
	realm, err := url.Parse(ch.realm)
	if ch.realm == "" || err != nil {
		return
	}
	realm.RawQuery = ownQuery(realm).Encode()
	challenge := "Bearer realm=" + strconv.Quote(printable(realm.String())) + ",service=" + strconv.Quote(printable(ch.service))
	if repository, ok := repositoryOf(resp.Request.URL.Path, c.registry.Path); ok {
		challenge += ",scope=" + strconv.Quote("repository:"+repository+":pull")
	}
	resp.Header.Set("WWW-Authenticate", challenge)
}

// repositoryOf returns the repository that a path below the registry's own asks
// for. The scope of a challenge or token request is made of it, and not taken
// from the registry, which could have a token got that opens another one; so
// nothing but a name is one.
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
