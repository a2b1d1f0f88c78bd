package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"strings"

	"hubcap/proxy/upstream/credentials"
)

// errNoBasic says that a registry wants a user name and password.
var errNoBasic = errors.New("there is no user name and password to show")

// do sends req with an authorization, if it is not empty.
func (c *Client) do(req *http.Request, authorization string) (*http.Response, error) {
	req = req.Clone(req.Context())
	maps.Copy(req.Header, c.header)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return c.http.Do(req)
}

// authorized sends req with an authorization for the repository where the
// registry wants one. A challenge that the registry has put before is met before
// it is put again, which saves a round trip: a registry has one token service.
func (c *Client) authorized(req *http.Request, repository string) (*http.Response, error) {
	if c.caller != nil {
		return c.relay(req)
	}
	if held, ok := c.tokens.cache.Get(repository); ok {
		return c.withHeld(req, repository, held)
	}
	if known := c.tokens.lastChallenge(); known.scheme == schemeBearer {
		resp, err := c.meet(req, repository, known, "")
		if !c.isOutdated(known, resp, err) {
			return resp, err
		}
		closeBody(resp)
		c.tokens.learn(challenge{})
		c.tokens.cache.Remove(repository)
	}
	return c.unauthorized(req, repository)
}

// unauthorized sends req without an authorization first, and meets the
// registry's challenge.
func (c *Client) unauthorized(req *http.Request, repository string) (*http.Response, error) {
	resp, err := c.do(req, "")
	if err != nil {
		return nil, err
	}
	ch := c.challengeOf(resp)
	if ch.scheme == "" {
		return resp, nil
	}
	resp.Body.Close()
	return c.meet(req, repository, ch, "")
}

// withHeld sends req with the authorization that is held. One that the registry
// refuses although it should still be valid is replaced. There are registries
// that answer an old token with a challenge that cannot be met; they are asked
// without it.
func (c *Client) withHeld(req *http.Request, repository, held string) (*http.Response, error) {
	resp, err := c.do(req, held)
	if err != nil || !c.isRefusal(resp) {
		return resp, err
	}
	if resp.StatusCode == http.StatusForbidden {
		c.tokens.cache.Remove(repository)
		return resp, nil
	}
	ch := c.challengeOf(resp)
	resp.Body.Close()
	if ch.scheme == "" {
		c.tokens.cache.Remove(repository)
		return c.unauthorized(req, repository)
	}
	resp, err = c.meet(req, repository, ch, held)
	if err == nil && c.isRefusal(resp) {
		c.tokens.cache.Remove(repository)
	}
	return resp, err
}

// meet sends req with an authorization that meets the challenge, another one
// than the refused. Only the challenge to a request without an authorization is
// expected to be put again.
func (c *Client) meet(req *http.Request, repository string, ch challenge, refused string) (*http.Response, error) {
	authorization, err := c.tokens.get(req.Context(), repository, refused, func(ctx context.Context) (authorization, error) {
		if ch.scheme == schemeBasic {
			return c.basicAuthorization(ctx)
		}
		return c.fetchToken(ctx, repository, ch)
	})
	if err != nil {
		return nil, err
	}
	if refused == "" {
		c.tokens.learn(ch)
	}
	return c.do(req, authorization)
}

func (c *Client) basicAuthorization(ctx context.Context) (authorization, error) {
	cred, err := c.credential(ctx)
	if err != nil {
		return authorization{}, err
	}
	if cred.Username == "" || cred.Password == "" {
		return authorization{}, errNoBasic
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
	return authorization{"Basic " + encoded, tokenLife(0)}, nil
}

// credential returns the box's credentials; the zero value for a client without.
func (c *Client) credential(ctx context.Context) (credentials.Credential, error) {
	if c.login == nil {
		return credentials.Credential{}, nil
	}
	cred, err := c.login.keeper.Get(ctx)
	if err != nil && ctx.Err() == nil {
		err = errNoLogin
	}
	return cred, err
}

// isRefusal reports whether the registry itself refuses with 401 or 403.
func (c *Client) isRefusal(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) && sameOrigin(resp.Request.URL, c.o.URL)
}

// challengeOf returns the challenge in an answer that can be met: a Bearer one
// of a token host, or Basic if no Bearer is put and there are credentials. Of the
// scopes it names, those of repositories are left out: the scope of a token is
// what was requested, so that a registry cannot have hubcap fetch a token for
// another repository.
func (c *Client) challengeOf(resp *http.Response) challenge {
	if resp.StatusCode != http.StatusUnauthorized || !sameOrigin(resp.Request.URL, c.o.URL) {
		return challenge{}
	}
	return c.guard.choose(resp.Header.Values("WWW-Authenticate"), c.login != nil)
}

// isOutdated reports whether the registry may put another challenge now than
// the known one, which was met before it was put: the token service refuses, or
// the registry does with another challenge.
func (c *Client) isOutdated(known challenge, resp *http.Response, err error) bool {
	if err != nil {
		var refused *tokenRefusal
		return errors.As(err, &refused) && refused.status < 500 || errors.Is(err, errBadToken)
	}
	return resp.StatusCode == http.StatusUnauthorized && sameOrigin(resp.Request.URL, c.o.URL) && c.challengeOf(resp) != known
}

func closeBody(resp *http.Response) {
	if resp != nil {
		resp.Body.Close()
	}
}

// bearerOf returns the token in an Authorization header.
func bearerOf(authorization string) (token string, ok bool) {
	return strings.CutPrefix(authorization, "Bearer ")
}
