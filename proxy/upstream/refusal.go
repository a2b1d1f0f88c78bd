package upstream

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Refusal is what a Denied, NotFound or Withdrawn comes from, and with that
// whether it is about the content.
type Refusal uint8

// The refusals.
const (
	NoRefusal      Refusal = iota // none: no answer, trouble, or hubcap's own decision
	ByRegistry                    // an OCI error of the registry
	NotOCI                        // no OCI error: the page of a firewall, a balancer or a portal
	DespiteToken                  // a 401 to a token whose own access claim grants the pull
	ByTokenService                // the token service gave no token (401, 403)
)

// ociError is one error in the text of a refusal (OCI distribution
// specification, "Error Codes").
type ociError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refusalText is the JSON of a refusal, as far as it is known.
type refusalText struct {
	Errors []ociError `json:"errors"`

	// Where token services that send no OCI error have their message.
	Details any `json:"details"` // Docker Hub's
	Message any `json:"message"`
	Error   any `json:"error"` // RFC 6749, 5.2, and quay.io's
}

// parseRefusal returns what is known of a refusal's text; nothing if it is not
// JSON.
func parseRefusal(text []byte) (r refusalText) {
	if json.Unmarshal(text, &r) != nil {
		return refusalText{}
	}
	return r
}

// words returns the code and the message of a refusal's text, cleaned for logs.
// The code is empty unless it is an OCI error. secrets are those of the request.
func words(text []byte, secrets []string) (code, message string) {
	r := parseRefusal(text)
	if len(r.Errors) > 0 {
		return clean(r.Errors[0].Code, secrets), clean(r.Errors[0].Message, secrets)
	}
	for _, one := range []any{r.Details, r.Message, r.Error} {
		if said, ok := one.(string); ok && said != "" {
			return "", clean(said, secrets)
		}
	}
	return "", ""
}

// maxMessage is how many characters of a registry's message are kept.
const maxMessage = 200

// secret matches what a message might repeat and no log may have: queries, which
// hold signatures, user names and passwords in addresses, tokens.
var secret = regexp.MustCompile(`(?i)\?\S+|//[^/\s@]+@|\b(?:bearer|basic)\s+\S{8,}|\beyJ[\w-]+\.\S+|\b\w*(?:token|password|secret|signature)["']?\s*[=:]\s*\S+`)

// clean returns the beginning of a registry's message as one printable line
// without secrets.
func clean(s string, secrets []string) string {
	for _, one := range secrets {
		s = strings.ReplaceAll(s, one, "…")
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, secret.ReplaceAllString(s, "…"))
	line := []rune(strings.Join(strings.Fields(s), " "))
	return string(line[:min(len(line), maxMessage)])
}

// secretsIn returns the tokens and passwords in a request, as they are sent and
// decoded.
func secretsIn(req *http.Request) (all []string) {
	_, sent, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	_, password, _ := req.BasicAuth()
	all = append(all, sent, password)
	if req.GetBody != nil {
		if body, err := req.GetBody(); err == nil {
			text, _ := io.ReadAll(io.LimitReader(body, maxRefusal)) // it is in memory
			form, _ := url.ParseQuery(string(text))
			all = append(all, form.Get("password"), form.Get("refresh_token"))
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// maxRefusal bounds how much of a refusal's text is read, in bytes. OCI errors
// have some hundred.
const maxRefusal = 8 << 10

// readRefusal reads at most maxRefusal of a refusal's text, for at most timeout,
// and closes it.
func readRefusal(body io.ReadCloser, timeout time.Duration) []byte {
	defer body.Close()
	defer time.AfterFunc(timeout, func() { body.Close() }).Stop()
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	if err != nil {
		return nil
	}
	return text
}

// refusal returns the Error for an answer with an unexpected status.
func (c *Client) refusal(req *http.Request, resp *http.Response) *Error {
	e := &Error{
		Kind: kindOf(resp.StatusCode), Upstream: c.o.Label, Request: describe(req),
		Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, c.o.Now()), Credentials: c.login != nil,
	}
	if e.Kind == RateLimited { // what the breaker made of it, in whole seconds as it was sent
		e.RetryAfter = max(c.budget.wait(), c.o.hosts.of(resp.Request.URL).backoff.wait()).Round(time.Second)
	}
	if c.caller != nil && resp.StatusCode == http.StatusUnauthorized {
		e.Challenge = resp.Header.Get("WWW-Authenticate")
	}
	text := readRefusal(resp.Body, c.o.StallTimeout)
	// A redirect target's refusal is none of the registry: a CDN answers 403 or
	// 404 when a signed address has expired.
	if !sameOrigin(resp.Request.URL, req.URL) {
		if !e.Failing() {
			e.Kind = ServerError
		}
		return e
	}
	e.Code, e.Message = words(text, secretsIn(resp.Request))
	if e.Kind == Withdrawn && isWebPage(resp.Header.Get("Content-Type")) {
		e.Kind = Invalid // probably a firewall's
	}
	if !e.Failing() {
		e.Refusal = c.source(resp, e.Code != "")
	}
	return e
}

// source returns what a refusal comes from. oci reports whether its text is an
// OCI error.
func (c *Client) source(resp *http.Response, oci bool) Refusal {
	repository, named := repositoryOf(resp.Request.URL.Path, c.o.URL.Path)
	token, bearer := strings.CutPrefix(resp.Request.Header.Get("Authorization"), "Bearer ")
	// The claims of a caller's token may be forged.
	if resp.StatusCode == http.StatusUnauthorized && c.caller == nil && named && bearer && grantsPull(token, repository) {
		return DespiteToken
	}
	if oci || resp.Request.Method == http.MethodHead && announcesOCI(resp.Header) {
		return ByRegistry
	}
	return NotOCI
}

// announcesOCI reports whether the answer to a GET would be an OCI error, by the
// header of one to a HEAD: its type or, without one, the header that registries
// of Docker's API send.
func announcesOCI(h http.Header) bool {
	if h.Get("Content-Type") == "" {
		return h.Get("Docker-Distribution-Api-Version") != ""
	}
	return plainType(h.Get("Content-Type")) == "application/json"
}
