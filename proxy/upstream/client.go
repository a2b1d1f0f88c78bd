// Package upstream asks registries. It knows their protocol, their token
// services, redirects and moods, and it keeps credentials where they belong;
// it knows nothing of clients, of the cache, or of what a tag meant before.
//
// The world is closed: a registry's name is looked up in a Set, never dialled;
// a token service is asked only if it is on its registry's list; an address
// of the inside is not connected to unless the operator named its range.
//
// Files: client.go (what can be asked), lists.go (of a repository), set.go and presets.go (which
// registries there are), confine.go and challenge.go (where credentials may
// go), login.go (the box's own), tokens.go (the token cache), locations.go (where blobs were found),
// dial.go (the address filter, and which address answers), authorities.go
// (whose certificates count), transport.go
// (connections, retries, time-outs), reconnect.go (connections that are dead),
// hosts.go (what is known of hosts), circuit.go (which of them are left alone),
// silence.go (429), budget.go (the pull limit), error.go (what can go wrong),
// refusal.go (who refuses, and in what words), encoding.go and shape.go (how a
// text is encoded, and what a manifest is).
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

	"hubcap/metrics"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/credentials"
)

// Options is what a Client needs. All but the Login, TokenHosts,
// PrivateCIDRs and CAFiles is required.
type Options struct {
	Label string   // the configured host or pattern: for logs and metrics
	URL   *url.URL // where the registry is; what stands before /v2/
	credentials.Login
	TokenHosts   []string // that may be asked for tokens, as TokenHost spells them
	PrivateCIDRs []netip.Prefix
	CAFiles      []*CAFile // of authorities that are trusted beside the system's

	ConnectTimeout time.Duration // for a connection, to whichever of a name's addresses; for what an outgoing proxy does for it; for its TLS handshake: each
	HeaderTimeout  time.Duration
	StallTimeout   time.Duration // for the next byte of a body
	TryAgain       time.Duration // how long a host that fails is left alone before one request tries it
	Offline        bool          // ask nobody

	Proxy       func(*http.Request) (*url.URL, error) // the outgoing proxy's choice
	UserAgent   string
	MaxManifest int64 // bytes of the largest manifest
	Now         func() time.Time
	Metrics     *metrics.Upstreams
	Log         *slog.Logger

	hosts    *hosts    // shared by the clients of one upstream; a client's own when nil
	upstream *Upstream // nil outside a Set
}

// Client asks one registry under one identity: with its configured
// credentials, or as anybody. Its token cache is its own, so that no caller
// gets a token that another identity was given.
type Client struct {
	label       string
	identity    string
	url         *url.URL
	upstream    *Upstream // whose rules redirects keep; nil for no rules
	login       *login    // the box's; nil for anybody
	dialer      *dialer   // nil when offline
	http        *http.Client
	header      http.Header // of every request
	guard       *guard
	offline     bool
	caller      *caller // on whose behalf it asks; nil for the box's own
	hosts       *hosts
	budget      *budget
	tokens      *tokens
	locations   *memory.Memory[string, *url.URL] // where blobs are, by repository@digest
	stall       time.Duration
	maxManifest int64
	metrics     *metrics.Upstream
}

// NewClient makes a client with the options' credentials, or without any.
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
	return &reconnecting{base: &counted{unbound{t}, m}, closeIdle: t.closeIdle, trust: trustIdle, patience: o.ConnectTimeout}, d
}

// Trouble says what of the registry is down: hosts that take no connection, do
// not answer the question how they are, or are left alone by their circuit,
// and those that have asked, by a 429, to be left alone for longer than
// patience. What a single object's failures say of it is nothing.
func (c *Client) Trouble(patience time.Duration) Trouble {
	if c.offline {
		return Trouble{Registry: true, Blobs: true}
	}
	return c.hosts.trouble(patience)
}

// Failing reports whether the registry or its token service is in trouble:
// what is not held is likely not to be had.
func (c *Client) Failing(patience time.Duration) bool { return c.Trouble(patience).Registry }

// Credentials tells whether the client asks with the box's credentials.
func (c *Client) Credentials() bool { return c.login != nil }

// Grants tells whether the token last got for the repository says itself
// that it opens it. An opaque token says nothing.
func (c *Client) Grants(repository string) bool { return c.tokens.grants(repository) }

// Descriptor is what a registry says of a manifest.
type Descriptor struct {
	Digest    digest.Digest // empty when the registry does not say, or says one that is not served
	MediaType string        // empty when the registry does not say
	Size      int64         // bytes; negative when the registry does not say
}

// Manifest is a manifest whose body hashes to its digest.
type Manifest struct {
	Descriptor
	Body []byte
}

// acceptManifests are the types asked for. Registries that take the header by
// the letter send no other one, so schema 1 is among them: that it is refused
// says more than that there is nothing.
var acceptManifests = []string{strings.Join([]string{
	ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json",
	schema1Signed, schema1, "*/*",
}, ", ")}

// HeadManifest asks what reference, a tag or digest, names. It costs no pull
// at Docker Hub.
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

// GetManifest fetches the manifest that reference, a tag or digest, names. It
// is a pull, and not sent while the registry grants none.
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
	// Its digest is not that of its bytes, which say more than a wrong digest.
	if named, old := schema1Of(resp.Header.Get("Content-Type"), body); old {
		return Manifest{}, c.invalid(req, "%w: %s", ErrSchema1, named)
	}
	d, err := manifestDigest(reference, resp.Header.Get("Docker-Content-Digest"), body)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	mediaType, err := manifestType(resp.Header.Get("Content-Type"), body)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	return Manifest{Descriptor{Digest: d, MediaType: mediaType, Size: int64(len(body))}, body}, nil
}

// mayPull tells why a manifest is not to be fetched: the registry grants no
// more pulls. A HEAD, which is none, asks now and then whether it does again.
func (c *Client) mayPull(ctx context.Context, repository, reference string) error {
	if c.caller != nil {
		return nil // each caller has a limit of his own
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

// Serves reports whether content is known by digests like d: of an algorithm
// that hubcap asks for and keeps content by.
func Serves(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// manifestDigest is the digest that was asked for, or else that the registry
// names, or else the body's sha256, as for a digest that hubcap does not serve;
// the body hashes to it.
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

// HeadBlob asks for the size of a blob, negative when the registry does not
// say.
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

// sizeOf is the size of what an answer to a HEAD speaks of, negative when it
// does not say: an encoding has another one.
func sizeOf(resp *http.Response) int64 {
	if isEncoded(resp.Header) {
		return -1
	}
	return resp.ContentLength
}

// Blob is an answer with bytes of a blob.
type Blob struct {
	Body io.ReadCloser
	Off  int64 // where in the blob Body begins
	End  int64 // where it ends, exclusive; negative when the registry does not say
	Size int64 // bytes of the whole blob; negative when the registry does not say
}

// OpenBlob asks for n bytes of a blob from off, all to its end when n is
// negative. A registry that knows no ranges answers from 0.
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

// sendForBlob asks where a blob was found a moment ago, and the registry when
// it is not known or no longer right: the registry's answer is a redirect to
// an address that is signed for some minutes, and one is enough for all the
// pieces of a blob.
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
		case err != nil: // there may be another host for it by now
		case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests: // it has been tried again already
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

// sendTo asks a CDN directly, as anybody.
func (c *Client) sendTo(ctx context.Context, at *url.URL, header http.Header) (*http.Request, *http.Response, error) {
	return c.exchange(ctx, http.MethodGet, at, header, func(req *http.Request) (*http.Response, error) { return c.do(req, "") })
}

// contentRange reads "bytes 100-199/1000" as 100, 200, 1000; the size is
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

// send asks for what is below a repository. The caller closes the body.
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

// movedTo returns the address that the registry redirects to within itself; nil
// where it does not.
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

// exchange makes a request, has it sent by do, and watches over the answer's
// body. The caller closes it.
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
