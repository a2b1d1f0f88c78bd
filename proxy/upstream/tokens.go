package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"

	"hubcap/proxy/memory"
)

// tokensKept is how many repositories' tokens are remembered for each
// upstream and identity.
const tokensKept = 1024

// The life of a token, as far as it is believed. The distribution project's
// token specification has 60 seconds where the service says nothing; what it
// says below that would mean a token a request.
const (
	minTokenLife = 60 * time.Second
	maxTokenLife = time.Hour
	tokenMargin  = 10 * time.Second // a token is given up this long before its end
)

func tokenLife(seconds float64) time.Duration {
	life := time.Duration(min(max(seconds, 0), maxTokenLife.Seconds()) * float64(time.Second))
	return max(life, minTokenLife) - tokenMargin
}

// attempt is one request's way through the auth client.
type attempt struct {
	repository string
	used       string        // the cached token that was tried
	lives      time.Duration // of the token that was fetched for it
	renewed    bool          // another token than the cached one was tried
	challenge  string        // that the registry has put lately, as the auth client sees it; empty when none is known
	sent       bool          // its first request has been sent
	guessed    bool          // that was answered with the known challenge, and not by the registry
}

type attemptKey struct{}

func withAttempt(ctx context.Context, a *attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// tokens is the auth client's cache: bounded, with an end to each token, one
// request at a time for each repository. It belongs to one upstream and one
// identity, so its keys are repositories.
type tokens struct {
	cache  *memory.Memory[string, string] // of bearer tokens and Basic credentials, by repository
	flight singleflight.Group

	mu        sync.Mutex
	scheme    auth.Scheme
	challenge string // the last one that a token was got for
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{cache: memory.New[string, string](tokensKept, now)}
}

// GetScheme implements auth.Cache.
func (t *tokens) GetScheme(context.Context, string) (auth.Scheme, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.scheme == auth.SchemeUnknown {
		return t.scheme, errdef.ErrNotFound
	}
	return t.scheme, nil
}

// GetToken implements auth.Cache.
func (t *tokens) GetToken(ctx context.Context, _ string, _ auth.Scheme, _ string) (string, error) {
	a := attemptOf(ctx)
	if a == nil {
		return "", errdef.ErrNotFound
	}
	value, ok := t.cache.Get(a.repository)
	if !ok || value == a.used {
		return "", errdef.ErrNotFound
	}
	a.used = value
	return value, nil
}

// Set implements auth.Cache. The requests that lack a token for one
// repository share one fetch, which outlives each of them.
func (t *tokens) Set(ctx context.Context, _ string, scheme auth.Scheme, _ string, fetch func(context.Context) (string, error)) (string, error) {
	a := attemptOf(ctx)
	if a == nil {
		return fetch(ctx)
	}
	a.renewed = true
	flight := t.flight.DoChan(a.repository, func() (any, error) {
		if value, ok := t.cache.Get(a.repository); ok && value != a.used {
			return value, nil // fetched while this request was on its way
		}
		mine := &attempt{repository: a.repository, lives: tokenLife(0)}
		value, err := fetch(withAttempt(context.WithoutCancel(ctx), mine))
		if err != nil {
			return nil, err
		}
		t.cache.Put(a.repository, value, mine.lives)
		t.mu.Lock()
		t.scheme, t.challenge = scheme, a.challenge
		t.mu.Unlock()
		return value, nil
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

// begin is a request's attempt. It knows the challenge that the registry will
// put, as far as it has been put before: a registry has one token service.
func (t *tokens) begin(repository string) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &attempt{repository: repository, challenge: t.challenge}
}

// forgetChallenge has the next request wait for the registry's own.
func (t *tokens) forgetChallenge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.challenge = ""
}

// drop forgets a token that the registry has refused.
func (t *tokens) drop(repository string) { t.cache.Remove(repository) }

// grants reports whether the token held for a repository says itself that it
// opens it for pulling.
func (t *tokens) grants(repository string) bool {
	value, ok := t.cache.Get(repository)
	return ok && grantsPull(value, repository)
}

// grantsPull reports whether a token's access claim opens a repository for
// pulling. Docker Hub hands anybody a token for any repository, with an empty
// claim where there is nothing to open. The signature is not checked: the token
// came from the token service itself, and is believed only about what it opens.
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
