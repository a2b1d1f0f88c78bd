package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/config"
)

// Bounds of asking a hubcap.
const (
	dialTimeout   = 5 * time.Second
	answerTimeout = time.Minute // until an answer begins: what would be removed or fetched takes a look at all that is held
	maxAnswer     = 64 << 20    // bytes of one document
)

// box is a hubcap that is asked.
type box struct {
	at     string // how the user knows it, for errors
	base   *url.URL
	token  string
	client *http.Client
}

// find returns the hubcap that the user means: --box, HUBCAP_URL, or the one of
// this machine. The token goes to the first two alone.
func (p *program) find() (*box, error) {
	if p.box != nil {
		return p.box, nil
	}
	c, err := config.LoadClient(p.Environ)
	if err != nil {
		return nil, err
	}
	if p.at != "" {
		if c.URL, err = config.AdminURL(p.at); err != nil {
			return nil, failed(Usage, "--box %s: %w", p.at, err)
		}
	}
	transport := &http.Transport{ResponseHeaderTimeout: answerTimeout, DisableCompression: true, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext}
	b := &box{client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if c.URL != nil {
		b.at, b.base, b.token = c.URL.String(), c.URL, string(c.Token)
		transport.Proxy = http.ProxyFromEnvironment
		transport.TLSClientConfig = &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12}
	} else {
		b.at, b.base = "this machine", &url.URL{Scheme: "http", Host: "localhost"}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialFirst(ctx, c.Sockets) }
	}
	p.box = b
	return b, nil
}

// dialFirst connects to the first of some sockets that answers. The error is that
// of a socket that exists, if one does.
func dialFirst(ctx context.Context, sockets []string) (net.Conn, error) {
	var d net.Dialer
	var failure error
	for _, name := range sockets {
		conn, err := d.DialContext(ctx, "unix", name)
		if err == nil {
			return conn, nil
		}
		if failure == nil || errors.Is(failure, fs.ErrNotExist) && !errors.Is(err, fs.ErrNotExist) {
			failure = err
		}
	}
	return nil, failure
}

// send sends a request to a route of the API, with a bundle where body is a reader,
// else with body as JSON, or with nothing if it is nil. The caller closes the body of
// the answer, whose status is below 300.
func (b *box) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	content, isBundle := body.(io.Reader)
	contentType := "application/x-tar"
	if !isBundle && body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content, contentType = bytes.NewReader(text), "application/json"
	}
	at := b.base.JoinPath("api/v1", path)
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), content)
	if err != nil {
		return nil, err
	}
	if b.token != "" {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, b.unanswered(ctx, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		return nil, b.refused(resp)
	}
	return resp, nil
}

// unanswered returns the failure for a request without an answer.
func (b *box) unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return failed(Failed, "interrupted")
	}
	if inner := (*url.Error)(nil); errors.As(err, &inner) {
		err = inner.Err // without the method and the address
	}
	if errors.Is(err, fs.ErrPermission) {
		return failed(NotAllowed, "%s: %w; run the command as root or as the user hubcap", b.at, err)
	}
	hint := ""
	if b.base.Host == "localhost" && b.token == "" {
		hint = "; HUBCAP_URL or --box is the address of another one"
	}
	return failed(NoBox, "no hubcap answers at %s: %w%s", b.at, err, hint)
}

// refused returns the failure for an answer of status 300 and above.
func (b *box) refused(resp *http.Response) error {
	var e api.Error
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	isError := strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(text, &e) == nil
	code := Failed
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized && b.token == "":
		return failed(NotAllowed, "%s wants a token: set HUBCAP_TOKEN or HUBCAP_TOKEN_FILE to that of its data directory (admin-token)", b.at)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		code = NotAllowed
	case isError && slices.Contains(noImage, e.Type):
		code = NoImage
	case isError && (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity):
		code = Usage
	case !isError:
		code = NoBox
	}
	if !isError {
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return failed(code, "%s answers with status %s", b.at, cmp.Or(plain(line), resp.Status))
	}
	what := plain(e.Error())
	if e.Do != "" {
		what += "; " + plain(e.Do)
	}
	return failed(code, "%s", what)
}

// ask asks a route of the hubcap that the user means; body is as for send. It returns
// the answer, also as it came.
func ask[T any](ctx context.Context, p *program, method, path string, query url.Values, body any) (answer T, text []byte, err error) {
	b, err := p.find()
	if err != nil {
		return answer, nil, err
	}
	resp, err := b.send(ctx, method, path, query, body)
	if err != nil {
		return answer, nil, err
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return answer, nil, fmt.Errorf("the answer of %s broke off: %w", b.at, err)
	}
	if len(text) > 0 { // a 204 has none
		err = b.decode(text, &answer)
	}
	return answer, text, err
}

// get asks a route that changes nothing.
func get[T any](ctx context.Context, p *program, path string, query url.Values) (answer T, err error) {
	answer, _, err = ask[T](ctx, p, http.MethodGet, path, query, nil)
	return answer, err
}

// completeWithin is how long a shell may wait for the names of what there is.
const completeWithin = 2 * time.Second

// candidates returns what a shell offers: what a route answers, without a word
// where no hubcap answers.
func candidates[T any](p *program, path string, query url.Values, names func(T) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
	defer cancel()
	answer, err := get[T](ctx, p, path, query)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(answer), cobra.ShellCompDirectiveNoFileComp
}

func (b *box) decode(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the answer of %s is not understood; is its version another one? %w", b.at, err)
	}
	return nil
}

// noImage are the types of the errors that say that there is no such image.
var noImage = []string{"urn:hubcap:unknown-registry", "urn:hubcap:unknown-tag", "urn:hubcap:unknown-image", "urn:hubcap:nothing-here", "urn:hubcap:not-in-history"}
