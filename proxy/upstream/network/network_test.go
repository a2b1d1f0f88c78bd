package network

import (
	"hubcap/metrics"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLongIdleConnection: a request over a connection that was idle for long is
// given up before the header time-out, and sent again over a new one, which has
// all of it.
func TestLongIdleConnection(t *testing.T) {
	t.Parallel()
	slow := make(chan time.Duration, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case d := <-slow:
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		default:
		}
		_, _ = io.WriteString(w, "body")
	}))
	defer server.Close()
	n := New(Options{
		PrivateCIDRs: prefixes("127.0.0.0/8"), ConnectTimeout: 50 * time.Millisecond, HeaderTimeout: 10 * time.Second,
		Proxy: http.ProxyFromEnvironment, Metrics: metrics.New().Upstreams.Of("registry.test", "anonymous"),
	})
	n.trust = 0
	defer func() { n.transport.CloseIdleConnections() }()
	get := func(method string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
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
