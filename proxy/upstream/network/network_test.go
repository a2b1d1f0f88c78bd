package network

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// pipes is a listener whose connections are made by dial, in memory.
type pipes struct {
	conns  chan net.Conn
	closed context.Context
	close  context.CancelFunc
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn)}
	p.closed, p.close = context.WithCancel(context.Background())
	return p
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestLongIdleConnection: a request over a connection that was idle for long is
// given up before the header time-out, and sent again over a new one, which has
// all of it.
func TestLongIdleConnection(t *testing.T) { synctest.Test(t, testLongIdleConnection) }

func testLongIdleConnection(t *testing.T) {
	slow := make(chan time.Duration, 10)
	at := newPipes()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case d := <-slow:
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		default:
		}
		_, _ = io.WriteString(w, "body")
	})}
	go func() { _ = server.Serve(at) }()
	defer server.Close()
	n := New(Options{
		ConnectTimeout: 50 * time.Millisecond, HeaderTimeout: 10 * time.Second,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, Metrics: metrics.New().Upstreams.Of("registry.test", "anonymous"),
	})
	n.transport = NewTransport(n.RootCAs, func(roots *x509.CertPool) *http.Transport {
		t := n.newTransport(roots)
		t.DialContext = at.dial
		return t
	})
	n.trust = 0
	defer func() { n.transport.CloseIdleConnections() }()
	get := func(method string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://registry.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := n.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || method == http.MethodGet && string(body) != "body" || resp.Request != req {
			t.Errorf("%q, %v", body, err)
		}
		return nil
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if err := get(method); err != nil {
			t.Fatal(err)
		}
		slow <- time.Hour              // over the idle connection
		slow <- 200 * time.Millisecond // over the new one: longer than the patience with an idle one
		if err := get(method); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if len(slow) != 0 {
		t.Errorf("%d requests less than expected", len(slow))
	}
}
