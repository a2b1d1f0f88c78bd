package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"

	"hubcap/metrics"
)

// newTransport returns the transport of one upstream. HTTP/1.1 only: several
// transfers of one blob add up only over several connections, and HTTP/1.1 takes
// less work a byte. Nothing is decompressed: digests are of the bytes as sent.
func newTransport(o Options, d *dialer, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:       d.through(o.Proxy),
		DialContext: d.dial,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(0), // resumes sessions; 0 is its default, 64 hosts
		},
		OnProxyConnectResponse: tunnelled,
		TLSHandshakeTimeout:    o.ConnectTimeout,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// maxRetries is how often a request is sent again after a failure that shows
// nothing about the content.
const maxRetries = 2

// retryPolicy sends GET and HEAD again after a failed connection or a 5xx: soon,
// with jitter. It does not after a 429, nor after a time-out, which has taken long
// enough.
type retryPolicy struct{}

// Retry implements retry.Policy.
func (retryPolicy) Retry(tries int, resp *http.Response, err error) (time.Duration, error) {
	const never = -1
	if tries >= maxRetries {
		return never, nil
	}
	if err != nil {
		var timeout net.Error
		var untrusted *tls.CertificateVerificationError
		if notSent(err) || errors.Is(err, errBadToken) || errors.Is(err, context.Canceled) || errors.As(err, &untrusted) ||
			errors.As(err, &timeout) && timeout.Timeout() {
			return never, nil
		}
	} else if resp.StatusCode < 500 || resp.StatusCode == http.StatusNotImplemented ||
		resp.Request.Method != http.MethodGet && resp.Request.Method != http.MethodHead {
		return never, nil
	}
	pause := 100 * time.Millisecond << tries
	return pause + rand.N(pause), nil //nolint:gosec // jitter, not a secret
}

// notSent reports whether hubcap itself did not send the request.
func notSent(err error) bool {
	return errors.Is(err, errRefused) || errors.Is(err, errOffline) || errors.As(err, new(*postponed))
}

type onceKey struct{}

// Once returns a context whose requests are not retried here: the caller retries
// them. Token requests that they cause are, since others wait for them too.
func Once(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, true) }

func isOnce(ctx context.Context) bool { return ctx.Value(onceKey{}) != nil }

// retrying retries by the policy, except requests of Once.
type retrying struct{ once, again http.RoundTripper }

func withRetries(base http.RoundTripper) http.RoundTripper {
	return &retrying{base, &retry.Transport{Base: base, Policy: func() retry.Policy { return retryPolicy{} }}}
}

func (r *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	if isOnce(req.Context()) && !req.URL.Query().Has("scope") {
		return r.once.RoundTrip(req)
	}
	return r.again.RoundTrip(req)
}

// counted counts every hop of every request.
type counted struct {
	base    http.RoundTripper
	hosts   *hosts
	metrics *metrics.Upstream
}

func (c *counted) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := c.base.RoundTrip(req)
	if err != nil {
		c.metrics.Request(metrics.ClassNoAnswer)
		if errors.Is(err, errRefused) {
			c.metrics.Blocked() // by the dial filter
		}
		return nil, err
	}
	c.metrics.Request(metrics.ClassOf(resp.StatusCode))
	if resp.StatusCode < http.StatusBadRequest {
		c.metrics.Answered(c.hosts.role(hostPort(req.URL)), time.Since(began))
	}
	return resp, nil
}

// errStalled says that an upstream sent nothing for the stall time-out.
var errStalled error = stalled{}

type stalled struct{}

func (stalled) Error() string { return "the upstream stalled" }

// Timeout implements net.Error's method, so that the request is not retried.
func (stalled) Timeout() bool { return true }

// watched is a body with a stall time-out: for the next byte, not for the whole.
type watched struct {
	io.ReadCloser
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	ctx     context.Context
	metrics *metrics.Upstream
}

// watch replaces resp's body by a watched one. cancel ends the request's context.
func watch(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response, timeout time.Duration, m *metrics.Upstream) {
	w := &watched{ReadCloser: resp.Body, timeout: timeout, cancel: cancel, ctx: ctx, metrics: m}
	w.timer = time.AfterFunc(time.Hour, func() { cancel(errStalled) })
	w.timer.Stop()
	resp.Body = w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.timeout)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	w.metrics.Received(n)
	if err != nil && err != io.EOF && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.cancel(nil)
	return w.ReadCloser.Close()
}
