package fakehub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// claims is the content of a token: the fields that a registry reads and those
// that Docker Hub always sends.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	Expires  int64    `json:"exp"`
	NotUntil int64    `json:"nbf"`
	Issued   int64    `json:"iat"`
	ID       string   `json:"jti"`
	Access   []access `json:"access"`
}

// access is a right on one repository.
type access struct {
	Type       string            `json:"type"`
	Name       string            `json:"name"`
	Actions    []string          `json:"actions"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// allows reports whether the claims let their bearer pull.
func (c *claims) allows(repo string) bool {
	return slices.ContainsFunc(c.Access, func(a access) bool {
		return a.Type == "repository" && a.Name == repo && slices.Contains(a.Actions, "pull")
	})
}

// tokens signs, remembers and checks tokens.
type tokens struct {
	mu      sync.Mutex
	key     []byte
	opaque  map[string]claims // by token
	refresh map[string]string // user by refresh token
}

// init makes a new key, which makes all tokens invalid.
func (t *tokens) init() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.key, t.opaque, t.refresh = randomKey(), map[string]claims{}, map[string]string{}
}

// RevokeTokens makes all tokens issued so far invalid.
func (h *Hub) RevokeTokens() { h.tokens.init() }

var encoding = base64.RawURLEncoding

// issue makes a token.
func (t *tokens) issue(c claims, opaque bool) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if opaque {
		token := hex.EncodeToString(randomKey())
		t.opaque[token] = c
		return token
	}
	head := encoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))
	signed := head + "." + encoding.EncodeToString(encode(c))
	return signed + "." + t.sign(signed)
}

// sign returns the signature of a JWT; mu is held.
func (t *tokens) sign(s string) string {
	mac := hmac.New(sha256.New, t.key)
	mac.Write([]byte(s))
	return encoding.EncodeToString(mac.Sum(nil))
}

// verify returns the claims of a valid token.
func (t *tokens) verify(token string, now time.Time) (*claims, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.opaque[token]
	if !ok {
		i := strings.LastIndexByte(token, '.')
		if i < 0 || !hmac.Equal([]byte(t.sign(token[:i])), []byte(token[i+1:])) {
			return nil, false
		}
		_, payload, _ := strings.Cut(token[:i], ".")
		b, err := encoding.DecodeString(payload)
		if err != nil || json.Unmarshal(b, &c) != nil {
			return nil, false
		}
	}
	return &c, c.Audience == service && now.Unix() < c.Expires
}

// tokenAnswer is what the token service sends.
type tokenAnswer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	Scope        string `json:"scope,omitempty"`
	ExpiresIn    int64  `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// token answers a request to the token service.
func (h *Hub) token(r *http.Request, f *Fault) *answer {
	switch {
	case r.URL.Path != "/token":
		return newAnswer(http.StatusNotFound, "text/plain", bytesSource([]byte("404 page not found\n")))
	case r.Method == http.MethodGet:
		return h.tokenByGet(r, f)
	case r.Method == http.MethodPost:
		return h.tokenByPost(r, f)
	}
	return newAnswer(http.StatusMethodNotAllowed, "text/plain", bytesSource([]byte("method not allowed\n")))
}

// tokenByGet is the distribution token protocol.
func (h *Hub) tokenByGet(r *http.Request, f *Fault) *answer {
	query := r.URL.Query()
	user := ""
	if r.Header.Get("Authorization") != "" {
		name, password, ok := r.BasicAuth()
		if !ok || !h.knows(name, password) {
			return tokenRefused()
		}
		user = name
	}
	t := h.grant(user, query.Get("service"), query["scope"], f)
	if query.Get("offline_token") == "true" && user != "" {
		t.RefreshToken = h.refreshToken(user)
	}
	return jsonAnswer(http.StatusOK, t)
}

// tokenByPost is the OAuth2 variant.
func (h *Hub) tokenByPost(r *http.Request, f *Fault) *answer {
	r.Body = http.MaxBytesReader(nil, r.Body, 64<<10)
	user, ok := "", false
	switch r.PostFormValue("grant_type") {
	case "password":
		user = r.PostFormValue("username")
		ok = h.knows(user, r.PostFormValue("password"))
	case "refresh_token":
		h.tokens.mu.Lock()
		user, ok = h.tokens.refresh[r.PostFormValue("refresh_token")]
		h.tokens.mu.Unlock()
	default:
		return newAnswer(http.StatusBadRequest, "application/json", bytesSource([]byte(`{"details":"unsupported grant type"}`)))
	}
	if !ok {
		return tokenRefused()
	}
	t := h.grant(user, r.PostFormValue("service"), r.PostForm["scope"], f)
	t.Scope = r.PostFormValue("scope")
	if r.PostFormValue("access_type") == "offline" {
		t.RefreshToken = h.refreshToken(user)
	}
	return jsonAnswer(http.StatusOK, t)
}

func tokenRefused() *answer {
	return newAnswer(http.StatusUnauthorized, "application/json", bytesSource([]byte(`{"details":"incorrect username or password"}`)))
}

// knows reports whether a password is right.
func (h *Hub) knows(user, password string) bool {
	want, ok := h.options.Load().Users[user]
	return ok && want == password
}

func (h *Hub) refreshToken(user string) string {
	h.tokens.mu.Lock()
	defer h.tokens.mu.Unlock()
	token := hex.EncodeToString(randomKey())
	h.tokens.refresh[token] = user
	return token
}

// grant issues a token with those of the requested rights that the user has:
// everybody gets a token, even without any right.
func (h *Hub) grant(user, audience string, scopes []string, f *Fault) tokenAnswer {
	o := h.options.Load()
	now := o.Clock()
	c := claims{
		Issuer: "auth.docker.io", Subject: user, Audience: audience, ID: hex.EncodeToString(randomKey()[:16]),
		Issued: now.Unix(), NotUntil: now.Add(-time.Minute).Unix(), Expires: now.Add(o.TokenTTL).Unix(),
		Access: []access{},
	}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		if a, ok := h.access(scope, user, o); ok {
			c.Access = append(c.Access, a)
		}
	}
	token := h.tokens.issue(c, o.OpaqueTokens)
	answer := tokenAnswer{
		Token: token, AccessToken: token,
		ExpiresIn: int64(o.TokenTTL.Seconds()), IssuedAt: now.UTC().Format(time.RFC3339Nano),
	}
	if f.ExpiresIn != nil {
		answer.ExpiresIn = *f.ExpiresIn
	}
	return answer
}

// access returns the part of a scope like repository:library/demo:pull,push
// that a user has. Nobody may push.
func (h *Hub) access(scope, user string, o *Options) (access, bool) {
	kind, rest, _ := strings.Cut(scope, ":")
	i := strings.LastIndexByte(rest, ':')
	if kind != "repository" || i < 0 {
		return access{}, false
	}
	name := rest[:i]
	if !slices.Contains(strings.Split(rest[i+1:], ","), "pull") || !h.store.readable(name, user, o.HideUnknown) {
		return access{}, false
	}
	a := access{Type: "repository", Name: name, Actions: []string{"pull"}}
	limit := o.RateLimit
	if user != "" {
		limit = o.UserRateLimit
	}
	if limit > 0 {
		a.Parameters = map[string]string{
			"pull_limit": strconv.Itoa(limit), "pull_limit_interval": strconv.Itoa(int(window.Seconds())),
		}
	}
	return a, true
}

// Token issues a token as the token service would for a user ("" is anonymous)
// and the pull scopes of the repositories, without a request.
func (h *Hub) Token(user string, repos ...string) string {
	var scopes []string
	for _, repo := range repos {
		scopes = append(scopes, "repository:"+repo+":pull")
	}
	return h.grant(user, service, scopes, &Fault{}).Token
}
