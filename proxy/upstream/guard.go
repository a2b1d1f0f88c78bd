package upstream

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/advice"
	"hubcap/proxy/logging"
	"hubcap/proxy/upstream/network"
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 5

// guard is the transport of one client. It keeps credentials where they belong:
// they are sent to the registry and to token hosts only, and no redirect carries
// them to another host.
type guard struct {
	Options
	base    http.RoundTripper
	metrics *metrics.Upstream
	warned  logging.Throttle
	refused atomic.Pointer[RefusedTokenHost] // the last one; nil for none
}

// RoundTrip implements http.RoundTripper, for all but token requests.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	home := sameOrigin(req.URL, g.URL)
	if !home && req.Header.Get("Authorization") != "" {
		g.metrics.Blocked()
		return nil, fmt.Errorf("%w: credentials for %s, which is neither the registry nor a token host", errRefused, req.URL.Host)
	}
	resp, err := g.base.RoundTrip(req)
	switch {
	case err != nil:
	case resp.StatusCode == http.StatusUnauthorized && !home:
		resp.Header.Del("WWW-Authenticate")
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		g.discard(resp)
	}
	return resp, err
}

// discard reads the body of a redirect, so that its connection can be used
// again: little of it, and not for long.
func (g *guard) discard(resp *http.Response) {
	body := resp.Body
	defer time.AfterFunc(g.StallTimeout, func() { body.Close() }).Stop()
	io.CopyN(io.Discard, body, 2<<10) //nolint:errcheck // a connection that cannot be used again is closed
	body.Close()
	resp.Body = http.NoBody
}

// isTokenService reports whether realm may be asked for tokens: its host and
// port are on the list, and it is no less protected than the registry.
func (g *guard) isTokenService(realm string) bool {
	u, err := url.Parse(realm)
	if err != nil || u.User != nil || u.Host == "" {
		return false
	}
	if u.Scheme != "https" && (u.Scheme != "http" || g.URL.Scheme != "http") {
		return false
	}
	return network.HostPort(u) == network.HostPort(g.URL) || slices.Contains(g.TokenHosts, network.HostPort(u))
}

// refuseRealm counts, keeps and logs a token service that is not on the list.
func (g *guard) refuseRealm(realm string) {
	g.metrics.Blocked()
	host, now := "(not an address)", g.Now()
	if u, err := url.Parse(realm); err == nil {
		host = u.Host
	}
	g.refused.Store(&RefusedTokenHost{host, now})
	if g.warned.Allow(now) {
		g.Log.Warn(advice.TokenHost(g.Label, host), "upstream", g.Label, "token_host", host)
	}
}

// checkRedirect is the HTTP client's CheckRedirect. A request follows a redirect
// to another host without credentials. Redirects within the registry are left to
// Client.follow.
func (g *guard) checkRedirect(req *http.Request, via []*http.Request) error {
	if err := g.mayFollow(req, via); err != nil {
		g.metrics.Blocked()
		return err
	}
	if len(via) == 1 && sameOrigin(via[0].URL, g.URL) && withinRegistry(g.URL, req.URL) {
		return http.ErrUseLastResponse
	}
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		req.Header.Del(name)
	}
	return nil
}

func (g *guard) mayFollow(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || g.URL.Scheme != "http"):
		return fmt.Errorf("%w: a redirect from %s to %s", errRefused, g.URL.Scheme, req.URL.Scheme)
	case req.URL.User != nil:
		return fmt.Errorf("%w: a redirect with credentials in it", errRefused)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return fmt.Errorf("%w: a redirect of a %s", errRefused, req.Method)
	}
	return g.upstream.checkRedirect(req.URL, g.URL)
}

// withinRegistry reports whether u, to which the registry at base redirects, is
// requested with a token where the registry wants one. A query on what belongs
// to no repository is a signature, and takes a token's place.
func withinRegistry(base, u *url.URL) bool {
	if !sameOrigin(base, u) {
		return false
	}
	_, ok := repositoryOf(u.Path, base.Path)
	return ok || u.RawQuery == ""
}

// sameOrigin reports whether scheme, host and port are the same.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && network.HostPort(a) == network.HostPort(b)
}

// TokenHost returns an operator's token host, with or without a port, in the
// spelling that realms are compared in. The default port is the scheme's.
func TokenHost(s, scheme string) (string, error) {
	u, err := url.Parse(scheme + "://" + s)
	if err != nil || u.Host == "" || u.Host != s || u.User != nil || strings.HasSuffix(s, ":") {
		return "", fmt.Errorf("%q is no host or host:port", s)
	}
	return network.HostPort(u), nil
}
