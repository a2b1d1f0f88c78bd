package upstream

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/network"
)

// tokensKept is how many repositories' tokens are remembered for each upstream
// and identity.
const tokensKept = 1024

// maxToken bounds a token service's answer, in bytes.
const maxToken = 64 << 10

// The life of a token. The distribution project's token specification has 60
// seconds where the service does not say; less would mean a token a request.
const (
	minTokenLife = 60 * time.Second
	maxTokenLife = time.Hour
	tokenMargin  = 10 * time.Second // a token is not used this long before its end
)

func tokenLife(seconds float64) time.Duration {
	life := time.Duration(min(max(seconds, 0), maxTokenLife.Seconds()) * float64(time.Second))
	return max(life, minTokenLife) - tokenMargin
}

// errRefused marks what hubcap does not do although a registry asks for it.
var errRefused = network.ErrRefused

// errBadToken marks a token answer that cannot be used.
var errBadToken = errors.New("the token service's answer cannot be used")

// tokenRefusal is the answer of a token service that gives no token.
type tokenRefusal struct {
	status        int
	page          bool   // it is a web page: something else answers in the service's place
	code, message string // as in Error
}

func (t *tokenRefusal) Error() string { return "the token service refused" }

// authorization is the value of an Authorization header, and for how long it is
// used.
type authorization struct {
	value string
	life  time.Duration
}

// tokens are the authorizations of one upstream and identity, by repository.
type tokens struct {
	cache  *memory.Memory[string, string]
	flight singleflight.Group
	last   atomic.Pointer[challenge] // that was met; nil for none
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{cache: memory.New[string, string](tokensKept, now)}
}

// get returns an authorization for a repository other than the refused one.
// Requests that lack one for the same repository share one fetch, which goes on
// when they end.
func (t *tokens) get(ctx context.Context, repository, refused string, fetch func(context.Context) (authorization, error)) (string, error) {
	flight := t.flight.DoChan(repository, func() (any, error) {
		if value, ok := t.cache.Get(repository); ok && value != refused {
			return value, nil // fetched meanwhile
		}
		a, err := fetch(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		t.cache.Put(repository, a.value, a.life)
		return a.value, nil
	})
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case result := <-flight:
		if result.Err != nil {
			return "", result.Err
		}
		return result.Val.(string), nil
	}
}

// lastChallenge returns the challenge that the registry is expected to put.
func (t *tokens) lastChallenge() challenge {
	if last := t.last.Load(); last != nil {
		return *last
	}
	return challenge{}
}

// learn sets the challenge that the registry is expected to put; zero for none.
func (t *tokens) learn(ch challenge) { t.last.Store(&ch) }

// grants reports whether the token held for a repository itself says that it
// may be pulled.
func (t *tokens) grants(repository string) bool {
	value, _ := t.cache.Get(repository)
	token, ok := bearerOf(value)
	return ok && grantsPull(token, repository)
}

// grantsPull reports whether a token's access claim lets a repository be pulled.
// Docker Hub gives a token for any repository, with an empty claim for private
// ones. The signature is not checked: the token came from the token service.
func grantsPull(token, repository string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct {
		Access []struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		} `json:"access"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return false
	}
	for _, a := range claims.Access {
		if a.Type == "repository" && a.Name == repository && slices.Contains(a.Actions, "pull") {
			return true
		}
	}
	return false
}

// fetchToken gets a token from the token service that a challenge names, with
// the box's credentials if there are any: by GET (distribution token
// specification), or by POST for a refresh token (its OAuth2 variant). An empty
// repository asks for a token that opens none.
func (c *Client) fetchToken(ctx context.Context, repository string, ch challenge) (authorization, error) {
	cred, err := c.credential(ctx)
	if err != nil {
		return authorization{}, err
	}
	if cred.AccessToken != "" {
		return authorization{"Bearer " + cred.AccessToken, tokenLife(0)}, nil
	}
	at, err := url.Parse(ch.realm)
	if err != nil {
		return authorization{}, err
	}
	scopes := strings.Fields(ch.scope)
	if repository != "" {
		scopes = append(scopes, "repository:"+repository+":pull")
	}
	scopes = slices.Compact(slices.Sorted(slices.Values(scopes)))
	method, query, form := http.MethodGet, ownQuery(at), url.Values{}
	if cred.RefreshToken != "" {
		method = http.MethodPost
		form = url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {cred.RefreshToken}, "client_id": {"hubcap"},
			"service": {ch.service}, "scope": {strings.Join(scopes, " ")},
		}
	} else {
		if ch.service != "" {
			query.Set("service", ch.service)
		}
		query["scope"] = scopes
	}
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return authorization{}, err
	}
	maps.Copy(req.Header, c.header)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else if cred.Username != "" || cred.Password != "" {
		req.SetBasicAuth(cred.Username, cred.Password)
	}
	return c.guard.askToken(req)
}

// askToken sends a token request. A 429 is a postponed error, so that its
// Retry-After is not lost.
func (g *guard) askToken(req *http.Request) (authorization, error) {
	if !g.isTokenService(req.URL.String()) {
		return authorization{}, fmt.Errorf("%w: %s is no token host", errRefused, req.URL.Host)
	}
	g.metrics.Token()
	resp, at, err := g.sendForToken(req)
	if err != nil {
		return authorization{}, err
	}
	if resp.StatusCode == http.StatusOK {
		return g.readToken(resp)
	}
	text := readRefusal(resp.Body, g.StallTimeout)
	if resp.StatusCode == http.StatusTooManyRequests {
		return authorization{}, &postponed{network.HostPort(at), g.hosts.of(at).backoff.wait(), true, resp.StatusCode}
	}
	refusal := &tokenRefusal{status: resp.StatusCode, page: isWebPage(resp.Header.Get("Content-Type"))}
	refusal.code, refusal.message = words(text, secretsIn(req))
	return authorization{}, refusal
}

// sendForToken sends a token request, and returns the answer and the address
// that gave it. A redirect is followed only to a token host and without
// credentials; the scope stays what was requested.
func (g *guard) sendForToken(req *http.Request) (*http.Response, *url.URL, error) {
	at, scopes := req.URL, req.URL.Query()["scope"]
	for hops := 0; ; hops++ {
		out := req.Clone(req.Context())
		out.URL, out.Host = at, ""
		resp, err := g.base.RoundTrip(out)
		if err != nil || resp.StatusCode < 300 || resp.StatusCode >= 400 {
			return resp, at, err
		}
		g.discard(resp)
		next, err := at.Parse(resp.Header.Get("Location"))
		switch {
		case req.Method != http.MethodGet || req.Header.Get("Authorization") != "":
			err = fmt.Errorf("%w: the token service redirects a request with credentials", errRefused)
		case err != nil || !g.isTokenService(next.String()):
			err = fmt.Errorf("%w: the token service redirects to what is no token host", errRefused)
		case hops == maxRedirects:
			err = fmt.Errorf("%w: more than %d redirects of the token service", errRefused, maxRedirects)
		}
		if err != nil {
			g.metrics.Blocked()
			return nil, at, err
		}
		query := ownQuery(next)
		query["scope"] = scopes
		next.RawQuery = query.Encode()
		at = next
	}
}

// ownQuery returns the query of a token service's address without scopes: see
// challengeOf.
func ownQuery(realm *url.URL) url.Values {
	values := realm.Query()
	values.Del("scope")
	return values
}

// readToken reads a token answer whole, within its bound.
func (g *guard) readToken(resp *http.Response) (authorization, error) {
	body := resp.Body
	defer body.Close()
	timer := time.AfterFunc(g.StallTimeout, func() { body.Close() })
	text, err := readText(resp.Header, body, maxToken)
	if !timer.Stop() {
		return authorization{}, errStalled
	}
	if errors.Is(err, errAboveBound) || errors.Is(err, errEncoding) {
		return authorization{}, fmt.Errorf("%w: %w", errBadToken, err)
	}
	if err != nil {
		return authorization{}, err
	}
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if json.Unmarshal(text, &answer) != nil {
		return authorization{}, fmt.Errorf("%w: no JSON", errBadToken)
	}
	token := cmp.Or(answer.AccessToken, answer.Token)
	switch {
	case token == "":
		return authorization{}, fmt.Errorf("%w: no token in it", errBadToken)
	case !headerValue(answer.Token) || !headerValue(answer.AccessToken):
		return authorization{}, fmt.Errorf("%w: a token that fits in no header", errBadToken)
	}
	seconds, err := strconv.ParseFloat(strings.Trim(string(answer.ExpiresIn), `"`), 64)
	if err != nil || math.IsNaN(seconds) {
		seconds = 0 // not stated
	}
	return authorization{"Bearer " + token, tokenLife(seconds)}, nil
}

func headerValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
