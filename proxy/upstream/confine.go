package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/logging"
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 5

// maxToken bounds a token service's answer in bytes.
const maxToken = 64 << 10

// errRefused marks everything that hubcap does not do although a registry
// asks for it.
var errRefused = errors.New("refused")

// errBadToken marks a token answer that cannot be used.
var errBadToken = errors.New("the token service's answer cannot be used")

// confined stands between the auth client and the network and keeps the
// credentials at home: a token service is used only when it is one of the
// token hosts, and a redirect never carries what was meant for the host
// before it.
type confined struct {
	base       http.RoundTripper
	registry   *url.URL
	tokenHosts []string // host:port
	logsIn     bool     // there are credentials to meet a Basic challenge with
	hosts      *hosts
	metrics    *metrics.Upstream
	log        *slog.Logger
	label      string
	patience   time.Duration // for the rest of an answer that is read here
	upstream   *Upstream     // whose rules redirects keep; nil for no rules
	now        func() time.Time
	warned     logging.Throttle
}

// RoundTrip sends one request, to the token service when it is addressed to
// it, and shows the auth client only challenges that it may meet.
func (c *confined) RoundTrip(req *http.Request) (*http.Response, error) {
	home := sameOrigin(req.URL, c.registry)
	if realm, ok := realmOf(req.URL); ok && home {
		return c.askToken(req, realm)
	}
	if !home && req.Header.Get("Authorization") != "" {
		c.metrics.Refused()
		return nil, fmt.Errorf("%w: credentials for %s, which is neither the registry nor a token host", errRefused, req.URL.Host)
	}
	if resp := guess(req, home); resp != nil {
		return resp, nil
	}
	resp, err := c.base.RoundTrip(req)
	switch {
	case err != nil:
	case resp.StatusCode == http.StatusUnauthorized && home && relayed(req.Context()):
		c.relayChallenge(resp)
	case resp.StatusCode == http.StatusUnauthorized && home:
		c.rewriteChallenge(req, resp)
	case resp.StatusCode == http.StatusUnauthorized:
		resp.Header.Del("WWW-Authenticate")
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		c.discard(resp)
	}
	return resp, err
}

// discard reads the text below a redirect or a refusal, so that its connection
// can be used again, but neither much of it nor for long.
func (c *confined) discard(resp *http.Response) {
	body := resp.Body
	defer time.AfterFunc(c.patience, func() { body.Close() }).Stop()
	io.CopyN(io.Discard, body, 2<<10) //nolint:errcheck // a connection that cannot be used again is closed
	body.Close()
	resp.Body = http.NoBody
}

// askToken sends a token request to its real address, and notes how long the
// token lives.
func (c *confined) askToken(req *http.Request, realm string) (*http.Response, error) {
	if !c.tokenService(realm) {
		return nil, fmt.Errorf("%w: %s is no token host", errRefused, redact(realm))
	}
	at, err := url.Parse(realm)
	if err != nil {
		return nil, err
	}
	values := ownQuery(at)
	for name, all := range req.URL.Query() {
		values[name] = append(values[name], all...)
	}
	at.RawQuery = values.Encode()
	c.metrics.Token()
	resp, at, err := c.sendForToken(req, at)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	if resp.StatusCode == http.StatusOK {
		return c.readToken(req.Context(), resp)
	}
	text := readRefusal(resp.Body, c.patience)
	if resp.StatusCode == http.StatusTooManyRequests { // the auth client would forget for how long
		return nil, &postponed{hostPort(at), c.hosts.of(at).backoff.wait(), true, resp.StatusCode}
	}
	refusal := &tokenRefusal{status: resp.StatusCode, page: isWebPage(resp.Header.Get("Content-Type"))}
	refusal.code, refusal.message = words(text, secretsIn(req))
	return nil, refusal
}

// sendForToken sends a token request, and returns the answer and the address
// that gave it. A redirect is followed to a token host, as anybody only: what
// it asks a token for stays what was asked for.
func (c *confined) sendForToken(req *http.Request, at *url.URL) (*http.Response, *url.URL, error) {
	scopes := req.URL.Query()["scope"]
	for hops := 0; ; hops++ {
		out := req.Clone(req.Context())
		out.URL, out.Host = at, ""
		resp, err := c.base.RoundTrip(out)
		if err != nil || resp.StatusCode < 300 || resp.StatusCode >= 400 {
			return resp, at, err
		}
		c.discard(resp)
		next, err := at.Parse(resp.Header.Get("Location"))
		switch {
		case req.Method != http.MethodGet || req.Header.Get("Authorization") != "":
			err = fmt.Errorf("%w: the token service redirects, and credentials are not carried along", errRefused)
		case err != nil || !c.tokenService(next.String()):
			err = fmt.Errorf("%w: the token service redirects to what is no token host", errRefused)
		case hops == maxRedirects:
			err = fmt.Errorf("%w: more than %d redirects of the token service", errRefused, maxRedirects)
		}
		if err != nil {
			c.metrics.Refused()
			return nil, at, err
		}
		values := ownQuery(next)
		values["scope"] = scopes
		next.RawQuery = values.Encode()
		at = next
	}
}

// tokenRefusal is the answer of a token service that gives no token.
type tokenRefusal struct {
	status        int
	page          bool   // it is a web page: somebody answers in the service's place
	code, message string // as in Error
}

func (t *tokenRefusal) Error() string { return "the token service refused" }

// ownQuery is the query of a token service's address, but for what names a
// repository in it: see foreignScopes.
func ownQuery(realm *url.URL) url.Values {
	values := realm.Query()
	values.Del("scope")
	return values
}

// readToken reads a token answer whole, within its bound.
func (c *confined) readToken(ctx context.Context, resp *http.Response) (*http.Response, error) {
	slow := resp.Body
	defer slow.Close()
	cut := time.AfterFunc(c.patience, func() { slow.Close() })
	body, err := readText(resp.Header, slow, maxToken)
	if !cut.Stop() {
		return nil, errStalled
	}
	if errors.Is(err, errAboveBound) || errors.Is(err, errEncoding) {
		return nil, fmt.Errorf("%w: %w", errBadToken, err)
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, fmt.Errorf("%w: no JSON", errBadToken)
	}
	if answer.Token == "" && answer.AccessToken == "" {
		return nil, fmt.Errorf("%w: no token in it", errBadToken)
	}
	if !headerValue(answer.Token) || !headerValue(answer.AccessToken) {
		return nil, fmt.Errorf("%w: a token that fits in no header", errBadToken)
	}
	if a := attemptOf(ctx); a != nil {
		seconds, err := strconv.ParseFloat(strings.Trim(string(answer.ExpiresIn), `"`), 64)
		if err != nil || math.IsNaN(seconds) {
			seconds = 0 // as if it said nothing
		}
		a.lives = tokenLife(seconds)
	}
	// The auth client reads the one name or the other, by how it asked.
	if answer.AccessToken == "" {
		answer.AccessToken = answer.Token
	}
	if body, err = json.Marshal(map[string]string{"access_token": answer.AccessToken}); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	return resp, nil
}

func headerValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// tokenService tells whether realm may be asked for tokens: its host and port
// are on the list, and it is no less protected than the registry.
func (c *confined) tokenService(realm string) bool {
	u, err := url.Parse(realm)
	if err != nil || u.User != nil || u.Host == "" {
		return false
	}
	if u.Scheme != "https" && (u.Scheme != "http" || c.registry.Scheme != "http") {
		return false
	}
	return slices.Contains(c.tokenHosts, hostPort(u))
}

// refuseRealm counts a foreign token service, and says so once a minute.
func (c *confined) refuseRealm(realm string) {
	c.metrics.Refused()
	if !c.warned.Allow(c.now()) {
		return
	}
	host := "(not an address)"
	if u, err := url.Parse(realm); err == nil {
		host = u.Host
	}
	c.log.Warn("a registry names a token service that is not on its list; nothing was sent there. If it is right, add it to HUBCAP_UPSTREAM_<n>_TOKEN_HOSTS",
		"upstream", c.label, "token_host", host)
}

// checkRedirect lets a request follow a redirect, without whatever it carried
// for the host before. It is the HTTP client's CheckRedirect. A redirect within
// the registry is Client.send's to follow.
func (c *confined) checkRedirect(req *http.Request, via []*http.Request) error {
	if err := c.mayFollow(req, via); err != nil {
		c.metrics.Refused()
		return err
	}
	if len(via) == 1 && sameOrigin(via[0].URL, c.registry) && withinRegistry(c.registry, req.URL) {
		return http.ErrUseLastResponse
	}
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		req.Header.Del(name)
	}
	return nil
}

func (c *confined) mayFollow(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || c.registry.Scheme != "http"):
		return fmt.Errorf("%w: a redirect from %s to %s", errRefused, c.registry.Scheme, req.URL.Scheme)
	case req.URL.User != nil:
		return fmt.Errorf("%w: a redirect with credentials in it", errRefused)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return fmt.Errorf("%w: a redirect of a %s", errRefused, req.Method)
	}
	return c.upstream.checkRedirect(req.URL, c.registry)
}

// withinRegistry reports whether a registry that redirects to u is to be asked
// there as it is asked anywhere: with a token, where it wants one. A query on
// what belongs to no repository is a signature, and stands in a token's place.
func withinRegistry(registry, u *url.URL) bool {
	if _, detour := realmOf(u); detour || !sameOrigin(registry, u) {
		return false
	}
	_, ok := repositoryOf(u.Path, registry.Path)
	return ok || u.RawQuery == ""
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && hostPort(a) == hostPort(b) }

// hostPort is the host and port that u addresses, in one spelling.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// TokenHost puts an operator's token host, with or without a port, into the
// spelling that realms are compared in. Without a port it is the scheme's.
func TokenHost(s, scheme string) (string, error) {
	u, err := url.Parse(scheme + "://" + s)
	if err != nil || u.Host == "" || u.Host != s || u.User != nil || strings.HasSuffix(s, ":") {
		return "", fmt.Errorf("%q is no host or host:port", s)
	}
	return hostPort(u), nil
}

// proxiedTarget checks by name what an outgoing proxy will resolve, since the
// dial filter sees only the proxy.
func proxiedTarget(u *url.URL, allowed []netip.Prefix) error {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return checkAddr(addr, allowed)
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || !strings.Contains(host, ".") ||
		strings.HasSuffix(host, ".internal") && len(allowed) == 0 {
		return fmt.Errorf("%w: %s is a name of the inside", errRefused, host)
	}
	return nil
}
