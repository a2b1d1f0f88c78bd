package upstream

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// Refusal says whose word a 401, 403 or 404 is, and with that how far it can be
// believed to be about the content.
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

// ociErrors returns the errors in a refusal's text; none where it is not
// worded as the specification has it.
func ociErrors(text []byte) []ociError {
	var refused struct {
		Errors []ociError `json:"errors"`
	}
	if json.Unmarshal(text, &refused) != nil {
		return nil
	}
	return refused.Errors
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
		Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header), Credentials: c.login != nil,
	}
	if e.Kind == RateLimited && e.RetryAfter <= 0 {
		e.RetryAfter = max(c.budget.wait(), c.hosts.of(resp.Request.URL).wait())
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
	errs := ociErrors(text)
	if len(errs) > 0 {
		e.Code = errs[0].Code
	}
	if !e.Failing() {
		e.Refusal = c.whose(resp, len(errs) > 0 && errs[0].Code != "")
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
	plain, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && plain == "application/json"
}
