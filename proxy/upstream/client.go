// Package upstream asks registries. It knows their protocol, token services,
// redirects and failures, and keeps credentials to the hosts that may have them.
// It knows nothing of hubcap's clients, of the cache, or of what a tag meant
// before.
//
// A registry's name is looked up in a Set and never dialled; a token service is
// asked only if it is on its registry's list; private and special addresses are
// not connected to unless the operator allows their range.
//
// Files, by subject:
// registries: set.go, presets.go, status.go (their state), client.go (what can
// be asked), lists.go (tags, referrers);
// authorization: auth.go (which authorization a request carries), challenge.go,
// tokens.go, login.go (the box's credentials), relay.go (a client's own token);
// network: guard.go (where credentials and redirects may lead), breaker.go with
// circuit.go, backoff.go and hosts.go (which hosts are asked), budget.go (the
// pull limit), transport.go, reconnect.go, dial.go (the address filter),
// authorities.go (certificates);
// answers: error.go, refusal.go, encoding.go, shape.go (a manifest's form).
package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
	"hubcap/metrics"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/credentials"
)

// Options configure a Client. All are required, except Login, TokenHosts,
// PrivateCIDRs, CAFiles and Offline.
type Options struct {
	Label string   // the configured host or pattern: for logs and metrics
	URL   *url.URL // of the registry: what precedes /v2/
	credentials.Login
	TokenHosts   []string // besides the registry's own, in the spelling of TokenHost
	PrivateCIDRs []netip.Prefix
	CAFiles      []*CAFile // authorities trusted besides the system's

	ConnectTimeout time.Duration // each: for a connection to any of a name's addresses, for an outgoing proxy's part, for the TLS handshake
	HeaderTimeout  time.Duration
	StallTimeout   time.Duration // for the next byte of a body
	TryAgain       time.Duration // how long a circuit stays open before one request tests the host
	Offline        bool          // send no requests

	Proxy       func(*http.Request) (*url.URL, error) // chooses the outgoing proxy
	UserAgent   string
	MaxManifest int64 // bytes
	Now         func() time.Time
	Metrics     *metrics.Upstreams
	Log         *slog.Logger

	hosts    *hosts    // shared by the clients of one upstream; a client's own when nil
	upstream *Upstream // nil outside a Set
}

// Client asks one registry under one identity. It shares no tokens with other
// clients, so that none is used under another identity.
type Client struct {
	label       string
	identity    string
	url         *url.URL
	upstream    *Upstream // whose rules redirects keep; nil for no rules
	login       *login    // nil without credentials
	dialer      *dialer   // nil when offline
	http        *http.Client
	header      http.Header // of every request
	guard       *guard
	offline     bool
	caller      *caller // on whose behalf it asks; nil for the box
	hosts       *hosts
	budget      *budget
	tokens      *tokens
	locations   *memory.Memory[string, *url.URL] // where blobs are, by repository@digest
	stall       time.Duration
	maxManifest int64
	metrics     *metrics.Upstream
}

// NewClient returns a client with the options' credentials, if there are any.
func NewClient(o Options) *Client {
	identity := identityAnonymous
	if o.LogsIn() {
		identity = identityCredentials
	}
	return newClient(o, identity)
}

func newClient(o Options, identity string) *Client {
	m := o.Metrics.Of(o.Label, identity)
	if o.hosts == nil {
		o.hosts = newHosts(o)
	}
	limit := newBudget(o.Now)
	network, d := o.network(m)
	g := &guard{
		registry: o.URL, tokenHosts: append([]string{hostPort(o.URL)}, o.TokenHosts...), hosts: o.hosts,
		metrics: m, log: o.Log, label: o.Label, timeout: o.StallTimeout, upstream: o.upstream, now: o.Now,
		base: withRetries(&breaker{base: network, hosts: o.hosts, budget: limit, registry: o.URL, timeout: o.StallTimeout}),
	}
	c := &Client{
		label: o.Label, identity: identity, url: o.URL, upstream: o.upstream, dialer: d, tokens: newTokens(o.Now), hosts: o.hosts, budget: limit, offline: o.Offline,
		guard: g, http: &http.Client{Transport: g, CheckRedirect: g.checkRedirect},
		header:    http.Header{"User-Agent": {o.UserAgent}, "Accept-Encoding": {"identity"}},
		locations: memory.New[string, *url.URL](locationsKept, o.Now),
		stall:     o.StallTimeout, maxManifest: o.MaxManifest, metrics: m,
	}
	if o.LogsIn() {
		c.login = newLogin(o, m)
	}
	return c
}

// network returns what sends requests, and counts them.
func (o Options) network(m *metrics.Upstream) (http.RoundTripper, *dialer) {
	if o.Offline {
		return offline{}, nil
	}
	d := newDialer(o.PrivateCIDRs, o.ConnectTimeout)
	t := &renewed{
		authorities: o.authorities(),
		make:        func(roots *x509.CertPool) *http.Transport { return newTransport(o, d, roots) },
	}
	return &reconnecting{base: &counted{unbound{t}, m}, closeIdle: t.closeIdle, trust: trustIdle, timeout: o.ConnectTimeout}, d
}

// Trouble returns what of the registry is down: hosts that accept no connection,
// fail their health check or have an open circuit, and those that have answered
// 429 with a wait above longest. A single failing object is no trouble.
func (c *Client) Trouble(longest time.Duration) Trouble {
	if c.offline {
		return Trouble{Registry: true, Blobs: true}
	}
	return c.hosts.trouble(longest)
}

// Failing reports whether the registry or its token service is in trouble.
func (c *Client) Failing(longest time.Duration) bool { return c.Trouble(longest).Registry }

// Credentials reports whether the client has the box's credentials.
func (c *Client) Credentials() bool { return c.login != nil }

// Grants reports whether the token last fetched for the repository itself says
// that it may be pulled. Opaque tokens do not say.
func (c *Client) Grants(repository string) bool { return c.tokens.grants(repository) }

// Descriptor is what a registry states about a manifest.
type Descriptor struct {
	Digest    digest.Digest // empty when not stated, or of an algorithm that is not served
	MediaType string        // empty when not stated
	Size      int64         // bytes; negative when not stated
}

// Manifest is a manifest whose body hashes to its digest.
type Manifest struct {
	Descriptor
	Body []byte
}

// acceptManifests is the Accept header for manifests. Some registries send
// nothing else, so schema 1 is among them: ErrSchema1 explains more than a 404.
var acceptManifests = []string{strings.Join([]string{
	ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json",
	content.DockerSchema1Signed, content.DockerSchema1, "*/*",
}, ", ")}

// HeadManifest returns what a reference, a tag or digest, names. Docker Hub does
// not count it as a pull.
func (c *Client) HeadManifest(ctx context.Context, repository, reference string) (Descriptor, error) {
	req, resp, err := c.send(ctx, http.MethodHead, repository, "manifests/"+reference, http.Header{"Accept": acceptManifests})
	if err != nil {
		return Descriptor{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Descriptor{}, c.refusal(req, resp)
	}
	d := Descriptor{MediaType: resp.Header.Get("Content-Type"), Size: sizeOf(resp)}
	switch plain := plainType(d.MediaType); {
	case isWebPage(d.MediaType):
		return Descriptor{}, c.invalid(req, "a web page in place of a manifest")
	case isSchema1(plain):
		return Descriptor{}, c.invalid(req, "%w: %s", ErrSchema1, plain)
	case plain == "" || saysNothing(plain):
		d.MediaType = ""
	}
	if named := digest.Digest(resp.Header.Get("Docker-Content-Digest")); Serves(named) {
		d.Digest = named
	}
	return d, nil
}

// GetManifest fetches the manifest that a reference, a tag or digest, names. It
// is a pull, and is not sent while the registry allows none.
func (c *Client) GetManifest(ctx context.Context, repository, reference string) (Manifest, error) {
	if err := c.mayPull(ctx, repository, reference); err != nil {
		return Manifest{}, err
	}
	req, resp, err := c.send(ctx, http.MethodGet, repository, "manifests/"+reference, http.Header{"Accept": acceptManifests})
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Manifest{}, c.refusal(req, resp)
	}
	c.metrics.Pulled()
	body, err := readText(resp.Header, resp.Body, c.maxManifest)
	switch {
	case errors.Is(err, errAboveBound):
		return Manifest{}, c.invalid(req, "a manifest above %d bytes", c.maxManifest)
	case errors.Is(err, errEncoding):
		return Manifest{}, c.invalid(req, "a manifest that is %w", err)
	case err != nil:
		return Manifest{}, c.failure(req, err)
	}
	m, shape := content.Parse(body)
	// A manifest of schema 1 has another digest than its bytes: the error is its
	// type, and not a wrong digest.
	if named, old := schema1Of(resp.Header.Get("Content-Type"), m); old {
		return Manifest{}, c.invalid(req, "%w: %s", ErrSchema1, named)
	}
	d, err := manifestDigest(reference, resp.Header.Get("Docker-Content-Digest"), body)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	if shape != nil {
		return Manifest{}, c.invalid(req, "a manifest that is not served: %w", shape)
	}
	mediaType, err := manifestType(resp.Header.Get("Content-Type"), m)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	return Manifest{Descriptor{Digest: d, MediaType: mediaType, Size: int64(len(body))}, body}, nil
}

// mayPull returns an Error while the registry allows no pulls. A HEAD, which is
// none, finds out at intervals whether it does again.
func (c *Client) mayPull(ctx context.Context, repository, reference string) error {
	if c.caller != nil {
		return nil // each has a limit of its own
	}
	wait := c.budget.wait()
	if wait > 0 {
		c.budget.ask(func() error {
			_, err := c.HeadManifest(ctx, repository, reference)
			return err
		})
		wait = c.budget.wait()
	}
	if wait <= 0 {
		return nil
	}
	return &Error{
		Kind: RateLimited, Upstream: c.label, Request: "GET manifest " + reference + " of " + repository,
		RetryAfter: wait, Credentials: c.login != nil, err: errNoPulls,
	}
}

// Serves reports whether d is a valid digest of an algorithm that hubcap
// supports: sha256 or sha512.
func Serves(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// manifestDigest returns the digest of a body: the requested one, or else the one
// in the header, or else its sha256, also in place of one of an unsupported
// algorithm. The error says that the body has another.
func manifestDigest(reference, header string, body []byte) (digest.Digest, error) {
	named, err := digest.Parse(header)
	if err != nil {
		named = digest.FromBytes(body)
	}
	if asked, err := digest.Parse(reference); err == nil {
		named = asked
	}
	if got := named.Algorithm().FromBytes(body); got != named {
		return "", fmt.Errorf("a manifest that hashes to %s and not to %s", got, named)
	}
	if !Serves(named) {
		named = digest.FromBytes(body)
	}
	return named, nil
}

// HeadBlob returns the size of a blob in bytes, negative when not stated.
func (c *Client) HeadBlob(ctx context.Context, repository string, d digest.Digest) (size int64, err error) {
	req, resp, err := c.send(ctx, http.MethodHead, repository, "blobs/"+d.String(), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, c.refusal(req, resp)
	}
	return sizeOf(resp), nil
}

// sizeOf returns the size of the content that an answer to a HEAD is about,
// negative when not stated: the length of an encoding is not it.
func sizeOf(resp *http.Response) int64 {
	if isEncoded(resp.Header) {
		return -1
	}
	return resp.ContentLength
}

// Blob is an answer with bytes of a blob.
type Blob struct {
	Body io.ReadCloser
	Off  int64 // offset in the blob at which Body begins
	End  int64 // at which it ends, exclusive; negative when not stated
	Size int64 // bytes of the whole blob; negative when not stated
}

// OpenBlob requests n bytes of a blob from off, or all to its end when n is
// negative. A registry without Range support answers from 0.
func (c *Client) OpenBlob(ctx context.Context, repository string, d digest.Digest, off, n int64) (*Blob, error) {
	header := http.Header{}
	switch {
	case n >= 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	req, resp, err := c.sendForBlob(ctx, repository, d, header)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &Blob{Body: resp.Body, End: resp.ContentLength, Size: resp.ContentLength}, nil
	case http.StatusPartialContent:
		first, end, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if ok && first == off && header.Get("Range") != "" && (n < 0 || end <= off+n) {
			return &Blob{Body: resp.Body, Off: off, End: end, Size: size}, nil
		}
		err = c.invalid(req, "Content-Range %.100q for the range %q", resp.Header.Get("Content-Range"), header.Get("Range"))
	case http.StatusRequestedRangeNotSatisfiable:
		resp.Body.Close()
		if off == 0 && n >= 0 { // an empty blob has no first byte
			return c.OpenBlob(ctx, repository, d, 0, -1)
		}
		return nil, c.refusal(req, resp)
	default:
		err = c.refusal(req, resp)
	}
	resp.Body.Close()
	return nil, err
}

// locationFor is how long an address that the registry redirected a blob to is
// used again. Registries sign theirs for ten minutes and more; one that expires
// earlier is refused, and the registry is asked anew.
const locationFor = time.Minute

// locationsKept bounds how many are remembered for each upstream and identity.
const locationsKept = 1024

// sendForBlob requests a blob at the address that the registry redirected to
// lately, which is signed for some minutes and serves all pieces of the blob, and
// from the registry if there is none or it is refused.
func (c *Client) sendForBlob(ctx context.Context, repository string, d digest.Digest, header http.Header) (*http.Request, *http.Response, error) {
	ctx = withObject(ctx, d.String())
	key := repository + "@" + d.String()
	if at, ok := c.locations.Get(key); ok {
		req, resp, err := c.sendTo(ctx, at, header)
		if err == nil && resp.StatusCode < 300 {
			return req, resp, nil
		}
		c.locations.Remove(key)
		switch {
		case err != nil && (ctx.Err() != nil || isOnce(ctx)):
			return nil, nil, err
		case err != nil: // the registry may redirect to another host by now
		case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests: // it has been retried already
			return req, resp, nil
		default:
			resp.Body.Close()
		}
	}
	req, resp, err := c.send(ctx, http.MethodGet, repository, "blobs/"+d.String(), header)
	if err == nil && resp.StatusCode < 300 && !sameOrigin(resp.Request.URL, c.url) {
		c.locations.Put(key, resp.Request.URL, locationFor)
	}
	return req, resp, err
}

// sendTo requests an address of another host, without an authorization.
func (c *Client) sendTo(ctx context.Context, at *url.URL, header http.Header) (*http.Request, *http.Response, error) {
	return c.exchange(ctx, http.MethodGet, at, header, func(req *http.Request) (*http.Response, error) { return c.do(req, "") })
}

// contentRange parses "bytes 100-199/1000" as 100, 200, 1000; the size is
// negative for "*".
func contentRange(header string) (first, end, size int64, ok bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	span, whole, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err != nil || err2 != nil || first < 0 || last < first || last == math.MaxInt64 {
		return 0, 0, 0, false
	}
	if whole == "*" {
		return first, last + 1, -1, true
	}
	size, err = strconv.ParseInt(whole, 10, 64)
	return first, last + 1, size, err == nil && last < size
}

// send requests what is below a repository. The caller closes the body.
func (c *Client) send(ctx context.Context, method, repository, what string, header http.Header) (*http.Request, *http.Response, error) {
	path, query, _ := strings.Cut(what, "?")
	at := c.url.JoinPath("v2", repository, path)
	at.RawQuery = query
	return c.follow(at, func(at *url.URL) (*http.Request, *http.Response, error) {
		by := c
		if name, ok := repositoryOf(at.Path, c.url.Path); ok && name != repository { // behind a redirect
			repository, by = name, c.upstream.follower(c, name)
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
			err = c.upstream.checkRedirect(next, c.url)
		}
		if err != nil {
			c.metrics.Refused()
			return nil, nil, &Error{Kind: Refused, Upstream: c.label, Request: describe(req), Credentials: c.login != nil, err: err}
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
	if err != nil || !sameOrigin(resp.Request.URL, c.url) || !withinRegistry(c.url, next) {
		return nil
	}
	next.Host = c.url.Host // in the spelling that credentials are kept under
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
	watch(ctx, cancel, resp, c.stall, c.metrics)
	return req, resp, nil
}
