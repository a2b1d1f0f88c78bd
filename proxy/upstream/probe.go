package upstream

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Probe is what a registry answers when it is asked whether it is one.
type Probe struct {
	Took time.Duration // until the head of the answer had come
	Date time.Time     // the registry's clock, in whole seconds; zero when not stated
}

// Probe asks the registry GET /v2/ without authorization, which any registry
// answers with 200 or 401 (OCI distribution specification, "Determining
// Support"). It costs no pull. The error is an Error.
func (c *Client) Probe(ctx context.Context) (Probe, error) {
	began := time.Now()
	var took time.Duration
	req, resp, err := c.base(ctx, func(req *http.Request) (*http.Response, error) {
		resp, err := c.do(req, "")
		took = time.Since(began)
		return resp, err
	})
	if err != nil {
		return Probe{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return Probe{}, c.refusal(req, resp)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		c.guard.choose(resp.Header.Values("WWW-Authenticate"), c.login != nil) // Status tells of a token service that is refused
	}
	p := Probe{Took: took}
	p.Date, _ = http.ParseTime(resp.Header.Get("Date")) // zero when it is missing
	return p, nil
}

// CheckLogin returns an error unless the box's credentials are accepted, for no
// repository in particular. The client has credentials.
func (c *Client) CheckLogin(ctx context.Context) error {
	return c.admitted(ctx, func(req *http.Request) (*http.Response, error) {
		if _, err := c.login.keeper.Get(ctx); err != nil {
			return nil, err
		}
		return c.unauthorized(req, "")
	})
}

// admitted requests the registry's GET /v2/ by do. It returns an error unless
// the answer is 200.
func (c *Client) admitted(ctx context.Context, do func(*http.Request) (*http.Response, error)) error {
	req, resp, err := c.base(ctx, do)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(req, resp)
	}
	return nil
}

// base requests the registry's GET /v2/ by do. The caller closes the body.
func (c *Client) base(ctx context.Context, do func(*http.Request) (*http.Response, error)) (*http.Request, *http.Response, error) {
	return c.follow(c.o.URL.JoinPath("v2/"), func(at *url.URL) (*http.Request, *http.Response, error) {
		return c.exchange(ctx, http.MethodGet, at, nil, do)
	})
}
