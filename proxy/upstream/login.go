package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"hubcap/metrics"
	"hubcap/proxy/logging"
	"hubcap/proxy/upstream/credentials"
)

// errNoLogin says that the box's credentials were wanted and of no use.
var errNoLogin = errors.New("hubcap's credentials for it are of no use at present; its log says why")

// login is the box's credentials for one registry.
type login struct {
	keeper    *credentials.Keeper
	host      string // with its port, that may see them
	kind      credentials.Kind
	label     string
	anonymous *Client // asks in the box's place while the credentials are of no use; nil for nobody
	now       func() time.Time
	metrics   *metrics.Upstream
	log       *slog.Logger
	warned    logging.Throttle
}

func newLogin(o Options, m *metrics.Upstream) *login {
	return &login{
		keeper: credentials.New(credentials.Options{Login: o.Login, Host: o.URL.Host, Proxy: o.Proxy, RootCAs: o.authorities().current}),
		host:   o.URL.Host, kind: o.Kind, label: o.Label, metrics: m, log: o.Log, now: o.Now,
	}
}

// credential is the auth client's CredentialFunc. No other host gets one.
func (l *login) credential(ctx context.Context, host string) (auth.Credential, error) {
	if host != l.host {
		return auth.EmptyCredential, nil
	}
	c, err := l.keeper.Get(ctx)
	if err != nil && ctx.Err() == nil {
		err = errNoLogin
	}
	return c, err
}

// asOwner sends req with the box's credentials, and as anybody where they are
// of no use: what is public is had without them too. The answer that anybody
// gets to what he may not have says nothing of the content, and the first one
// stands.
func (c *Client) asOwner(req *http.Request, repository string) (*http.Response, error) {
	ctx := req.Context()
	for {
		shown, err := c.login.keeper.Get(ctx)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			c.login.unavailable(err)
			return c.asAnybody(req, repository, nil, errNoLogin)
		}
		resp, err := c.authorized(req, repository)
		switch why := c.judge(resp, err); why {
		case accepted:
			c.login.keeper.Accepted()
			return resp, err
		case undecided:
			return resp, err
		case forbidden:
			c.login.useless(metrics.Forbidden, errors.New("it does not open "+repository))
			return c.asAnybody(req, repository, resp, err)
		}
		c.login.useless(metrics.Refused, credentials.ErrRefused)
		if !c.login.keeper.Refused(ctx, shown) {
			return c.asAnybody(req, repository, resp, err)
		}
		if resp != nil {
			resp.Body.Close()
		}
		c.tokens.drop(repository)
	}
}

// asAnybody sends req without the credentials, under the pull limit of anybody.
// resp and err are the answer to it with them.
func (c *Client) asAnybody(req *http.Request, repository string, resp *http.Response, err error) (*http.Response, error) {
	anybody := c.login.anonymous
	if anybody == nil {
		return resp, err
	}
	instead, insteadErr := anybody.inPlace(req, repository)
	if insteadErr == nil && anybody.judge(instead, nil) == accepted && kindOf(instead.StatusCode) != NotFound && kindOf(instead.StatusCode) != Withdrawn {
		if resp != nil {
			resp.Body.Close()
		}
		return instead, nil
	}
	if insteadErr == nil {
		instead.Body.Close()
	}
	if limited := new(Error); errors.As(insteadErr, &limited) {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, limited
	}
	return resp, err
}

// inPlace sends another client's req. An Error says that there are no pulls
// left.
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

// verdict is what an answer says of the credentials.
type verdict uint8

const (
	undecided verdict = iota // nothing
	accepted
	refused   // they are wrong, or have ended
	forbidden // they are right, and do not open the repository
)

// judge tells whose fault a refusal is. A token service knows nothing but
// credentials, and Basic is nothing but they; who refuses a token that was given
// for them means the repository.
func (c *Client) judge(resp *http.Response, err error) verdict {
	var fromTokens *tokenRefusal
	status := 0
	switch {
	case errors.As(err, &fromTokens):
		if status = fromTokens.status; status == http.StatusUnauthorized {
			return refused
		}
	case err != nil:
		return undecided
	case !sameOrigin(resp.Request.URL, c.url):
		return accepted
	default:
		status = resp.StatusCode
	}
	scheme, _ := c.tokens.GetScheme(context.Background(), "")
	switch {
	case status == http.StatusUnauthorized && scheme == auth.SchemeBasic:
		return refused
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return forbidden
	case err == nil && status < 500:
		return accepted
	default:
		return undecided
	}
}

func (l *login) unavailable(err error) {
	why := metrics.Unavailable
	if errors.Is(err, credentials.ErrRefused) {
		why = metrics.Refused
	}
	l.useless(why, err)
}

// useless counts a request for which the credentials were of no use, and says
// so once a minute.
func (l *login) useless(why metrics.CredentialFailure, err error) {
	l.metrics.CredentialsFailed(why)
	if !l.warned.Allow(l.now()) {
		return
	}
	kind := l.kind
	if kind == credentials.Given {
		kind = "given"
	}
	l.log.Warn("credentials are of no use: what anybody may pull is asked for without them, the rest is served from the cache or fails",
		"upstream", l.label, "credentials", string(kind), "reason", why.String(), "err", err, "do", credentials.Advice(l.kind, l.host))
}
