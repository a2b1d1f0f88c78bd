package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hubcap/metrics"
)

// send requests what is below a repository. The caller closes the body.
func (c *Client) send(ctx context.Context, method, repository, what string, header http.Header) (*http.Request, *http.Response, error) {
	path, query, _ := strings.Cut(what, "?")
	at := c.o.URL.JoinPath("v2", repository, path)
	at.RawQuery = query
	return c.follow(at, func(at *url.URL) (*http.Request, *http.Response, error) {
		by := c
		if name, ok := repositoryOf(at.Path, c.o.URL.Path); ok && name != repository { // behind a redirect
			repository, by = name, c.o.upstream.follower(c, name)
		}
		return c.exchange(ctx, method, at, header, func(req *http.Request) (*http.Response, error) {
			switch {
			case by != c:
				return by.inPlace(req, repository)
			case c.login != nil:
				return c.withLogin(req, repository)
			default:
				return c.authorized(req, repository)
			}
		})
	})
}

// fetch is send, with any answer but 200 as an Error.
func (c *Client) fetch(ctx context.Context, method, repository, what string, header http.Header) (*http.Request, *http.Response, error) {
	req, resp, err := c.send(ctx, method, repository, what, header)
	if err == nil && resp.StatusCode != http.StatusOK {
		return nil, nil, c.refusal(req, resp)
	}
	return req, resp, err
}

// text reads the text of an answer, of at most bound bytes, and closes it. what
// it is goes into the error.
func (c *Client) text(req *http.Request, resp *http.Response, what string, bound int64) ([]byte, error) {
	defer resp.Body.Close()
	text, err := readText(resp.Header, resp.Body, bound)
	switch {
	case errors.Is(err, errAboveBound):
		return nil, c.invalid(req, "%s above %d bytes", what, bound)
	case errors.Is(err, errEncoding):
		return nil, c.invalid(req, "%s that is %w", what, err)
	case err != nil:
		return nil, c.failure(req, err)
	}
	return text, nil
}

// follow sends a request by ask, and again for each redirect of the registry to
// itself. The target is requested like any other address of the registry, with
// a token for the repository that it names, if the operator's rules allow that
// repository.
func (c *Client) follow(at *url.URL, ask func(at *url.URL) (*http.Request, *http.Response, error)) (*http.Request, *http.Response, error) {
	for hops := 0; ; hops++ {
		req, resp, err := ask(at)
		if err != nil {
			return nil, nil, err
		}
		next := c.movedTo(resp)
		if next == nil {
			return req, resp, nil
		}
		resp.Body.Close()
		if hops == maxRedirects {
			err = fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
		} else {
			err = c.o.upstream.checkRedirect(next, c.o.URL)
		}
		if err != nil {
			c.metrics.Blocked()
			return nil, nil, &Error{Kind: Refused, Upstream: c.o.Label, Request: describe(req), Credentials: c.login != nil, err: err}
		}
		at = next
	}
}

// movedTo returns the address to which the registry redirects within itself; nil
// if it does not.
func (c *Client) movedTo(resp *http.Response) *url.URL {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil
	}
	next, err := resp.Location()
	if err != nil || !sameOrigin(resp.Request.URL, c.o.URL) || !withinRegistry(c.o.URL, next) {
		return nil
	}
	next.Host = c.o.URL.Host // in the spelling that credentials are kept under
	return next
}

// exchange makes a request, has it sent by do, and bounds how long the answer's
// body may stall. The caller closes it.
func (c *Client) exchange(ctx context.Context, method string, at *url.URL, header http.Header, do func(*http.Request) (*http.Response, error)) (*http.Request, *http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	maps.Copy(req.Header, header)
	resp, err := do(req)
	if err != nil {
		err = c.failure(req, err)
		cancel(nil)
		return nil, nil, err
	}
	watch(ctx, cancel, resp, c.o.StallTimeout, c.metrics)
	return req, resp, nil
}

// errStalled says that an upstream sent nothing for the stall time-out.
var errStalled error = stalled{}

type stalled struct{}

func (stalled) Error() string { return "the upstream stalled" }

// Timeout implements net.Error's method, so that the request is not retried.
func (stalled) Timeout() bool { return true }

// watched is a body with a stall time-out: for the next byte, not for the whole.
type watched struct {
	io.ReadCloser
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	ctx     context.Context
	metrics *metrics.Upstream
}

// watch replaces resp's body by a watched one. cancel ends the request's context.
func watch(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response, timeout time.Duration, m *metrics.Upstream) {
	w := &watched{ReadCloser: resp.Body, timeout: timeout, cancel: cancel, ctx: ctx, metrics: m}
	w.timer = time.AfterFunc(time.Hour, func() { cancel(errStalled) })
	w.timer.Stop()
	resp.Body = w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.timeout)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	w.metrics.Received(n)
	if err != nil && err != io.EOF && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.cancel(nil)
	return w.ReadCloser.Close()
}
