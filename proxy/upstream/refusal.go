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

// Refusal says whose word a Denied, NotFound or Withdrawn is, and with that how
// far it can be believed to be about the content.
type Refusal uint8

// The kinds of refusal.
const (
	NoRefusal      Refusal = iota // the Error is no refusal: no answer, trouble, or hubcap's own decision
	ByRegistry                    // an OCI error of the registry
	NotOCI                        // no OCI error: the page of a firewall, a balancer or a portal
	DespiteToken                  // a 401 to a token whose own access claim grants the pull
	ByTokenService                // the token service gave no token (401, 403)
)

var refusalNames = [...]string{"none", "by the registry", "no OCI error", "despite a token that grants the pull", "by the token service"}

func (r Refusal) String() string { return refusalNames[r] }

// ociError is one error in the text of a refusal (OCI distribution
// specification, "Error Codes").
type ociError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refusalText is the text of a refusal, as far as it is understood.
type refusalText struct {
	Errors []ociError `json:"errors"`

	// Token services say it in one of these, where they send no OCI error.
	Details any `json:"details"` // Docker Hub's
	Message any `json:"message"`
	Error   any `json:"error"` // RFC 6749, 5.2, and quay.io's
}

// ociErrors returns the errors in a refusal's text; none where it is not
// worded as the specification has it.
func ociErrors(text []byte) []ociError {
	var r refusalText
	if json.Unmarshal(text, &r) != nil {
		return nil
	}
	return r.Errors
}

// words returns the code and the message of a refusal's text, fit for a log.
// Without a code it is no OCI error. secrets are what the refused request held.
func words(text []byte, secrets []string) (code, message string) {
	var r refusalText
	if json.Unmarshal(text, &r) != nil {
		return "", ""
	}
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

// secret matches what a message might repeat that no log should have: queries,
// which hold signatures, user names and passwords in addresses, tokens.
var secret = regexp.MustCompile(`(?i)\?\S+|//[^/\s@]+@|\b(?:bearer|basic)\s+\S{8,}|\beyJ[\w-]+\.\S+|\b\w*(?:token|password|secret|signature)["']?\s*[=:]\s*\S+`)

// clean returns the beginning of what a registry says as one printable line
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

// secretsIn returns what a request holds that no log should have: tokens and
// passwords, as they are sent and as they are meant.
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

// maxRefusal bounds how much of a refusal's text is read, in bytes. The OCI
// errors of registries have some hundred.
const maxRefusal = 8 << 10

// readRefusal reads the text of a refusal, neither much of it nor for long, and
// closes it.
func readRefusal(body io.ReadCloser, patience time.Duration) []byte {
	defer body.Close()
	defer time.AfterFunc(patience, func() { body.Close() }).Stop()
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	if err != nil {
		return nil
	}
	return text
}

// refusal makes an Error of an HTTP answer that is not the one asked for.
func (c *Client) refusal(req *http.Request, resp *http.Response) *Error {
	e := &Error{
		Kind: kindOf(resp.StatusCode), Upstream: c.label, Request: describe(req),
		Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, c.hosts.now()), Credentials: c.login != nil,
	}
	if e.Kind == RateLimited { // as it was understood when it came, in whole seconds as it was sent
		e.RetryAfter = max(c.budget.wait(), c.hosts.of(resp.Request.URL).backoff.wait()).Round(time.Second)
	}
	if c.caller != nil && resp.StatusCode == http.StatusUnauthorized {
		e.Challenge = resp.Header.Get("WWW-Authenticate")
	}
	text := readRefusal(resp.Body, c.stall)
	// Behind a redirect only the registry's word counts: a CDN says 403 or
	// 404 when the signed address has expired, and a new one mends that.
	if !sameOrigin(resp.Request.URL, req.URL) {
		if !e.Failing() {
			e.Kind = ServerError
		}
		return e
	}
	e.Code, e.Message = words(text, secretsIn(resp.Request))
	if e.Kind == Withdrawn && isWebPage(resp.Header.Get("Content-Type")) {
		e.Kind = Invalid // a firewall's; registries that withdraw say so as registries
	}
	if !e.Failing() {
		e.Refusal = c.whose(resp, e.Code != "")
	}
	return e
}

// whose returns whose word a refusal is. oci reports whether its text is an OCI
// error.
func (c *Client) whose(resp *http.Response, oci bool) Refusal {
	repository, named := repositoryOf(resp.Request.URL.Path, c.url.Path)
	token, bearer := strings.CutPrefix(resp.Request.Header.Get("Authorization"), "Bearer ")
	// What a caller's token claims is the caller's word.
	if resp.StatusCode == http.StatusUnauthorized && c.caller == nil && named && bearer && grantsPull(token, repository) {
		return DespiteToken
	}
	if oci || resp.Request.Method == http.MethodHead && announcesOCI(resp.Header) {
		return ByRegistry
	}
	return NotOCI
}

// announcesOCI reports whether the text that an answer to a HEAD lacks would be
// an OCI error, as far as its header tells: by its type or, where it has none,
// by the header that all registries of Docker's API send.
func announcesOCI(h http.Header) bool {
	if h.Get("Content-Type") == "" {
		return h.Get("Docker-Distribution-Api-Version") != ""
	}
	return plainType(h.Get("Content-Type")) == "application/json"
}
