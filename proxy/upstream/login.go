package upstream

import (
	"crypto/x509"
	"errors"
	"net/http"
	"path"

	"hubcap/metrics"
	"hubcap/proxy/advice"
	"hubcap/proxy/logging"
	"hubcap/proxy/upstream/credentials"
)

// errNoLogin says that the box's credentials were needed and failed.
var errNoLogin = errors.New("hubcap's credentials for it fail at present; its log says why")

// login is the box's credentials for one registry.
type login struct {
	Options
	keeper    *credentials.Keeper
	anonymous *Client // asks while the credentials fail; nil for none
	metrics   *metrics.Upstream
	warned    logging.Throttle
}

func newLogin(o Options, m *metrics.Upstream, rootCAs func() *x509.CertPool) *login {
	return &login{
		Options: o, metrics: m,
		keeper: credentials.New(credentials.Options{Login: o.Login, Host: o.URL.Host, Proxy: o.Proxy, RootCAs: rootCAs}),
	}
}

// withLogin sends req with the box's credentials, and without them where they
// fail: public content needs none.
func (c *Client) withLogin(req *http.Request, repository string) (*http.Response, error) {
	ctx := req.Context()
	if c.o.Offline.On() { // the source of the credentials is not asked either
		return nil, errOffline
	}
	for {
		shown, err := c.login.keeper.Get(ctx)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			why := metrics.Unavailable
			if errors.Is(err, credentials.ErrRefused) {
				why = metrics.Refused
			}
			c.login.failed(why, err)
			return c.withoutLogin(req, repository, nil, errNoLogin)
		}
		resp, err := c.authorized(req, repository)
		switch c.acceptance(resp, err) {
		case accepted:
			c.login.keeper.Accepted()
			return resp, err
		case undecided:
			return resp, err
		case forbidden:
			c.login.failed(metrics.Forbidden, errors.New("it does not open "+repository))
			return c.withoutLogin(req, repository, resp, err)
		}
		c.login.failed(metrics.Refused, credentials.ErrRefused)
		if !c.login.keeper.Refused(ctx, shown) {
			return c.withoutLogin(req, repository, resp, err)
		}
		closeBody(resp)
		c.tokens.cache.Remove(repository)
	}
}

// withoutLogin sends req without the credentials, under the anonymous pull
// limit. resp and err are the answer with them. If the anonymous request is
// denied too, they are returned: they are the more specific answer.
func (c *Client) withoutLogin(req *http.Request, repository string, resp *http.Response, err error) (*http.Response, error) {
	anonymous := c.login.anonymous
	if anonymous == nil {
		return resp, err
	}
	instead, insteadErr := anonymous.inPlace(req, repository)
	if insteadErr == nil && anonymous.acceptance(instead, nil) == accepted && kindOf(instead.StatusCode) != NotFound && kindOf(instead.StatusCode) != Withdrawn {
		closeBody(resp)
		return instead, nil
	}
	if insteadErr == nil {
		instead.Body.Close()
	}
	if limited, ok := errors.AsType[*Error](insteadErr); ok {
		closeBody(resp)
		return nil, limited
	}
	return resp, err
}

// inPlace sends the req of another client of the same upstream. An Error says
// that there are no pulls left.
func (c *Client) inPlace(req *http.Request, repository string) (*http.Response, error) {
	if isPull(req) {
		if err := c.mayPull(req.Context(), repository, path.Base(req.URL.Path)); err != nil {
			return nil, err
		}
	}
	resp, err := c.authorized(req, repository)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		defer resp.Body.Close()
		return nil, c.refusal(req, resp)
	}
	return resp, err
}

// acceptance is what an answer shows about the credentials.
type acceptance uint8

const (
	undecided acceptance = iota
	accepted
	refused   // they are wrong, or have expired
	forbidden // they are right, without a right to the repository
)

// acceptance returns what an answer shows about the credentials. A 401 of a
// token service, or to Basic, is about them; a refusal of a token that was given
// for them is about the repository.
func (c *Client) acceptance(resp *http.Response, err error) acceptance {
	var fromTokens *tokenRefusal
	status := 0
	switch {
	case errors.As(err, &fromTokens):
		if status = fromTokens.status; status == http.StatusUnauthorized {
			return refused
		}
	case err != nil:
		return undecided
	case !sameOrigin(resp.Request.URL, c.o.URL):
		return accepted
	default:
		status = resp.StatusCode
	}
	switch {
	case status == http.StatusUnauthorized && c.tokens.lastChallenge().scheme == schemeBasic:
		return refused
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return forbidden
	case err == nil && status < 500:
		return accepted
	default:
		return undecided
	}
}

// failed counts and logs a request for which the credentials failed.
func (l *login) failed(why metrics.CredentialFailure, err error) {
	l.metrics.CredentialsFailed(why)
	if !l.warned.Allow(l.Now()) {
		return
	}
	kind := l.Kind
	if kind == credentials.Given {
		kind = "given"
	}
	what := "public repositories are pulled without them, of others only cached content is served"
	if why == metrics.Refused {
		what = advice.LoginRefused(l.told())
	}
	l.Log.Warn("registry credentials fail: "+what,
		"upstream", l.Label, "credentials", string(kind), "reason", why.String(), "err", err, "do", credentials.Advice(l.Kind, l.URL.Host))
}

// told returns what an operator is told of credentials that are refused.
func (l *login) told() advice.Login {
	t := advice.Login{Registry: l.Label, Limit: -1}
	if l.anonymous != nil {
		limit := l.anonymous.budget.status()
		t.Limit, t.Window = limit.Limit, limit.Window
	}
	if held := l.keeper.Status(); held.Renewed {
		t.Read = held.Asked
	}
	return t
}
