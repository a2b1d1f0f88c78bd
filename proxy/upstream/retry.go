package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

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
