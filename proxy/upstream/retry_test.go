package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

// TestRetries counts the requests that are sent for one that fails.
func TestRetries(t *testing.T) {
	t.Parallel()
	down := &fakehub.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"7"}}}
	manifests := fakehub.OfKind(fakehub.KindManifest)
	tests := []struct {
		name     string
		script   fakehub.Script
		requests int
		ok       bool
		kind     Kind
		class    string
	}{
		{"503 twice", fakehub.Times(2, down, manifests), 3, true, 0, "5xx"},
		{"503 for ever", fakehub.Always(down), 3, false, ServerError, "5xx"},
		{"501", fakehub.Always(&fakehub.Fault{Status: http.StatusNotImplemented}), 1, false, ServerError, "5xx"},
		{"429", fakehub.Always(&fakehub.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}}), 1, false, RateLimited, "429"},
		{"404", fakehub.Always(&fakehub.Fault{Status: http.StatusNotFound}), 1, false, NotFound, "4xx"},
		{"400", fakehub.Always(&fakehub.Fault{Status: http.StatusBadRequest}), 1, false, Invalid, "4xx"},
		{"closed twice", fakehub.Times(2, &fakehub.Fault{CloseBeforeHeaders: true}, manifests), 3, true, 0, "none"},
		{"closed for ever", fakehub.Always(&fakehub.Fault{CloseBeforeHeaders: true}), 3, false, Unreachable, "none"},
		{"first closed, then 503", fakehub.First(fakehub.Once(&fakehub.Fault{CloseBeforeHeaders: true}, manifests), fakehub.Once(down, manifests)), 3, true, 0, "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{Anonymous: true})
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Script(tt.script)
			_, err := client.GetManifest(within(t), repo, "latest")
			if n := hub.Count(manifests); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
			if n, _ := client.metrics.Value("hubcap_upstream_requests_total", "class", tt.class); n == 0 {
				t.Errorf("nothing is counted as %s", tt.class)
			}
			if tt.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e := wantKind(t, err, tt.kind)
			if want := map[string]time.Duration{"503 for ever": 7 * time.Second, "429": 7 * time.Second}[tt.name]; e.RetryAfter != want {
				t.Errorf("got Retry-After %v, want %v", e.RetryAfter, want)
			}
			if e.Temporary() != (tt.kind == ServerError || tt.kind == Unreachable || tt.kind == RateLimited) {
				t.Errorf("temporary: %t", e.Temporary())
			}
		})
	}
}

// TestRequestDuration: the time to the head of an answer is counted by the role
// of the host, for answers of success.
func TestRequestDuration(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Latency: 20 * time.Millisecond})
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	began := time.Now()
	if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	blob, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	blob.Body.Close()
	if _, err := client.GetManifest(within(t), repo, "invented"); err == nil {
		t.Fatal("an invented tag is there")
	}
	high := time.Since(began).Seconds()
	for role, requests := range map[string]int{roleRegistry: 2, roleToken: 1, roleRedirect: 1} {
		n, ok := client.metrics.Value("hubcap_upstream_request_duration_seconds", "role", role)
		if low := 0.02 * float64(requests); !ok || n < low || n > high {
			t.Errorf("%s: %v seconds for %d requests of 20 ms", role, n, requests)
		}
	}
}

// TestHeaderTimeout: a request that has timed out is not sent again.
func TestHeaderTimeout(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*fakehub.Fault{
		"silence": {Delay: time.Hour}, "status line only": {HeaderDelay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{Anonymous: true}, func(o *Options) { o.HeaderTimeout = 50 * time.Millisecond })
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Script(fakehub.Always(fault))
			_, err := client.GetManifest(within(t), repo, "latest")
			if e := wantKind(t, err, Unreachable); !e.Temporary() {
				t.Errorf("got %v, want a temporary failure", err)
			}
			asked := func() int { return hub.Count(fakehub.OfKind(fakehub.KindManifest)) }
			testkit.Eventually(t, "the request that was given up arrives", func() bool { return asked() > 0 })
			if n := asked(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestRegistryDown(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.Down()
	err := client.head(within(t))
	wantKind(t, err, Unreachable)
	_, err = client.HeadBlob(within(t), repo, digest.FromString("x"))
	wantKind(t, err, Unreachable)
	if !client.Failing(0) {
		t.Error("the registry is down")
	}
	hub.Up()
	if err := client.head(within(t)); err != nil || client.Failing(0) {
		t.Errorf("the registry is back: %v", err)
	}
	hub.Down()
	_, err = client.Get(within(t), repo, "tags/list", nil)
	wantKind(t, err, Unreachable)
	hub.Up()
	if err := client.head(within(t)); err != nil {
		t.Errorf("the registry is back: %v", err)
	}
	hub.Close()
	err = client.head(within(t)) // nothing listens
	wantKind(t, err, Unreachable)
	client.wantNoSecrets(t, err)
}

// TestLeavingRequest: a cancelled request ends with the cause of that, and not
// with a failure of the registry.
func TestLeavingRequest(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true})
	asked := make(chan struct{}, 1)
	hub.Script(func(*fakehub.Request) *fakehub.Fault {
		asked <- struct{}{}
		return &fakehub.Fault{Delay: time.Hour}
	})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(within(t))
	go func() {
		<-asked
		cancel(gone)
	}()
	err := client.head(ctx)
	var e *Error
	if !errors.Is(err, gone) || errors.As(err, &e) {
		t.Errorf("got %v, want the cause of its end", err)
	}
	if n := hub.Count(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	answer := func(method string, status int) *http.Response {
		return &http.Response{StatusCode: status, Request: &http.Request{Method: method}}
	}
	tests := []struct {
		name  string
		tries int
		resp  *http.Response
		err   error
		again bool
	}{
		{"200", 0, answer("GET", 200), nil, false},
		{"500", 0, answer("GET", 500), nil, true},
		{"500, HEAD", 1, answer("HEAD", 500), nil, true},
		{"500, last try", maxRetries, answer("GET", 500), nil, false},
		{"500, POST", 0, answer("POST", 500), nil, false},
		{"501", 0, answer("GET", 501), nil, false},
		{"429", 0, answer("GET", 429), nil, false},
		{"EOF", 0, nil, io.EOF, true},
		{"EOF, last try", maxRetries, nil, io.EOF, false},
		{"time-out", 0, nil, fmt.Errorf("x: %w", timeout{io.EOF}), false},
		{"deadline", 0, nil, context.DeadlineExceeded, false},
		{"left", 0, nil, fmt.Errorf("x: %w", context.Canceled), false},
		{"refused", 0, nil, &net.OpError{Op: "dial", Err: fmt.Errorf("x: %w", errRefused)}, false},
		{"bad token", 0, nil, fmt.Errorf("x: %w", errBadToken), false},
	}
	for _, tt := range tests {
		pause, err := retryPolicy{}.Retry(tt.tries, tt.resp, tt.err)
		if err != nil || (pause >= 0) != tt.again {
			t.Errorf("%s: got %v, %v, want another try: %t", tt.name, pause, err, tt.again)
		}
		if tt.again && (pause < 100*time.Millisecond || pause > 400*time.Millisecond) {
			t.Errorf("%s: a pause of %v", tt.name, pause)
		}
	}
}

// TestStall: a body that stops for longer than the stall time-out is given up.
func TestStall(t *testing.T) {
	t.Parallel()
	const size = 100_000
	hub, client := newHub(t, fakehub.Options{Anonymous: true}, withStallTimeout(50*time.Millisecond))
	d := hub.AddBlob(repo, fakehub.RandomBlob(1, size))
	image := hub.Image(repo, "latest", fakehub.RandomBlob(2, 10))
	for _, at := range []int64{0, 1, size - 1} {
		hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(at)}, fakehub.OfKind(fakehub.KindCDN)))
		b, err := client.OpenBlob(within(t), repo, d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, b.Body)
		if n > at || !errors.Is(err, errStalled) {
			t.Errorf("stalled at %d: got %d bytes and error %v", at, n, err)
		}
		b.Body.Close()
	}
	hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(int64(len(image.Body) - 1))}, fakehub.OfKind(fakehub.KindManifest)))
	_, err := client.GetManifest(within(t), repo, "latest")
	if e := wantKind(t, err, Unreachable); !e.Temporary() || !errors.Is(err, errStalled) {
		t.Errorf("manifest: got %v, want a stall", err)
	}
}

// pausing is a body that gives a byte after each pause, then ends. It ends early
// when the context of its request does.
type pausing struct {
	ctx    context.Context
	pauses []time.Duration
}

func (p *pausing) Read(b []byte) (int, error) {
	if len(p.pauses) == 0 {
		return 0, io.EOF
	}
	pause := time.NewTimer(p.pauses[0])
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
	p.pauses = p.pauses[1:]
	return copy(b, "x"), nil
}

func (p *pausing) Close() error { return nil }

// TestPatience: a slow body is not stalled, however long the whole takes, and
// neither is one whose reader is slow.
func TestPatience(t *testing.T) {
	t.Parallel()
	const patience = 30 * time.Second
	steady := make([]time.Duration, 1000)
	for i := range steady {
		steady[i] = patience - time.Millisecond
	}
	tests := []struct {
		name    string
		pauses  []time.Duration
		idle    time.Duration // of the reader, after each byte
		want    int
		stalled bool
	}{
		{"slow but steady", steady, 0, 1000, false},
		{"slow reader", make([]time.Duration, 10), time.Hour, 10, false},
		{"stall at once", []time.Duration{patience + 1}, 0, 0, true},
		{"stall after slow bytes", append(steady[:10:10], patience+1), 0, 10, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				resp := &http.Response{Body: &pausing{ctx, tt.pauses}}
				watch(ctx, cancel, resp, patience, metrics.New().Upstreams.Of("x", "anonymous"))
				var err error
				got, b := 0, make([]byte, 1)
				for err == nil {
					var n int
					n, err = resp.Body.Read(b)
					got += n
					time.Sleep(tt.idle)
				}
				if stalled := errors.Is(err, errStalled); got != tt.want || stalled != tt.stalled || !stalled && err != io.EOF {
					t.Errorf("got %d bytes and %v, want %d, stalled: %t", got, err, tt.want, tt.stalled)
				}
				if err := resp.Body.Close(); err != nil || ctx.Err() == nil {
					t.Errorf("closing: %v, and the request goes on", err)
				}
			})
		})
	}
}

// TestRateLimit: the limit is read from every answer of the registry, redirects
// included, in each of its forms.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	const limit, remaining = "hubcap_upstream_ratelimit_limit", "hubcap_upstream_ratelimit_remaining"
	hub, client := newHub(t, fakehub.Options{RateLimit: 2, RetryAfter: time.Minute})
	image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	want := func(wantLimit, wantRemaining float64) {
		t.Helper()
		l, _ := client.metrics.Value(limit, "identity", "anonymous")
		r, _ := client.metrics.Value(remaining, "identity", "anonymous")
		if l != wantLimit || r != wantRemaining {
			t.Errorf("got %v of %v, want %v of %v", r, l, wantRemaining, wantLimit)
		}
	}
	if _, ok := client.metrics.Value(limit, "identity", "anonymous"); ok {
		t.Error("a limit is exported that was not stated")
	}
	pull := func() error { _, err := client.GetManifest(within(t), repo, "latest"); return err }
	if err := pull(); err != nil {
		t.Fatal(err)
	}
	want(2, 1)
	if err := client.head(within(t)); err != nil { // costs nothing
		t.Fatal(err)
	}
	want(2, 1)
	if err := pull(); err != nil {
		t.Fatal(err)
	}
	want(2, 0)
	hub.Reset()
	e := wantKind(t, pull(), RateLimited)
	if e.RetryAfter != time.Minute || e.Temporary() || !e.Failing() {
		t.Errorf("got %+v", e)
	}
	if n := hub.Count(); n != 1 {
		t.Errorf("%d requests against a limit, want 1", n)
	}
	want(2, 0)
	for value, left := range map[string]float64{";w=21600": 0, "": 0, "nonsense": 0, "-5": 0, "77;w=21600": 77} {
		hub.Script(fakehub.Always(&fakehub.Fault{Header: http.Header{"Ratelimit-Remaining": {value}}}, fakehub.OfKind(fakehub.KindBlob)))
		if _, err := client.HeadBlob(within(t), repo, image.Layers[0].Digest); err != nil {
			t.Fatal(err)
		}
		want(2, left)
		hub.Script(fakehub.Always(&fakehub.Fault{Header: http.Header{"Ratelimit-Remaining": {"0;w=21600"}}}, fakehub.OfKind(fakehub.KindBlob)))
		if _, err := client.HeadBlob(within(t), repo, image.Layers[0].Digest); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := client.metrics.Value(limit, "identity", "credentials"); ok {
		t.Error("there is a limit of an identity that has made no request")
	}
}

// TestNothingIsDecompressed: blobs are passed on as they were sent, since
// digests are of those bytes.
func TestNothingIsDecompressed(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	d := hub.AddBlob(repo, []byte("not gzip"))
	hub.Script(fakehub.Always(&fakehub.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}}, fakehub.OfKind(fakehub.KindCDN)))
	b, err := client.OpenBlob(within(t), repo, d, 0, -1)
	if got := readBlob(t, b, err); string(got) != "not gzip" {
		t.Errorf("got %q", got)
	}
	for _, r := range hub.Log() {
		if r.Header.Get("Accept-Encoding") != "identity" || r.Proto != "HTTP/1.1" {
			t.Errorf("%s %s came by %s with Accept-Encoding %q", r.Method, r.Path, r.Proto, r.Header.Get("Accept-Encoding"))
		}
	}
}
