package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// wantNoConnection checks that nothing has connected to a listener: the next
// connection that it accepts is the test's own.
func wantNoConnection(t *testing.T, l net.Listener) {
	t.Helper()
	var d net.Dialer
	ours, err := d.DialContext(within(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	next, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.RemoteAddr().String() != ours.LocalAddr().String() {
		t.Error("a connection was made")
	}
}

func listen(t *testing.T, address string) (l net.Listener, port string) {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return l, port
}

// TestInsideIsNotConnectedTo: what counts is the address, whatever name has it.
func TestInsideIsNotConnectedTo(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]string{
		"name": "localhost", "address": "127.0.0.1", "unspecified": "0.0.0.0", "mapped": "[::ffff:127.0.0.1]",
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				t.Parallel()
				l, port := listen(t, "127.0.0.1:0")
				client := newFixture(t, scheme+"://"+host+":"+port, withCredentials, reaching())
				_, err := client.GetManifest(within(t), repo, "latest")
				if e := wantKind(t, err, Refused); e.Temporary() || !e.Failing() {
					t.Errorf("got %+v", e)
				}
				client.wantNoSecrets(t, err)
				if !strings.Contains(err.Error(), "PRIVATE_CIDRS") {
					t.Errorf("%q does not tell the operator what to do", err)
				}
				wantNoConnection(t, l)
				if n := client.refusals(t); n != 1 {
					t.Errorf("%d refusals counted, want 1", n)
				}
			})
		}
	}
}

// TestInsideBehindTheRegistry: the filter also applies to token services and
// redirects.
func TestInsideBehindTheRegistry(t *testing.T) {
	t.Parallel()
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		s.client = newFixture(t, s.registry.URL, withCredentials, reaching("127.0.0.1/32"))
		l, port := listen(t, "127.0.0.3:0")
		for _, to := range []string{"http://127.0.0.3:" + port + "/?signature=1", "http://169.254.169.254/latest", "http://[::1]:1/", "http://[fd00:ec2::254]/"} {
			s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			}
			_, err := s.client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
			wantKind(t, err, Refused)
			s.check(t, err, nil)
		}
		wantNoConnection(t, l)
	})
	t.Run("token service", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, newRecorder, newRecorder)
		l, port := listen(t, "127.0.0.3:0")
		realm := "http://127.0.0.3:" + port
		s.client = newFixture(t, s.registry.URL, withCredentials, reaching("127.0.0.1/32"), trusting(t, realm))
		s.registry.answer = challenging(s.bearer(realm))
		_, err := s.client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Refused)
		s.check(t, err, nil)
		wantNoConnection(t, l)
	})
}

// newProxy starts an outgoing proxy on loopback that connects to one address
// under every name.
func newProxy(t *testing.T, to net.Addr) *recorder {
	t.Helper()
	forward := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}}
	t.Cleanup(forward.CloseIdleConnections)
	return newRecorder(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnel(w, to)
			return
		}
		resp, err := forward.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}

// tunnel answers CONNECT.
func tunnel(w http.ResponseWriter, to net.Addr) {
	far, err := net.Dial("tcp", to.String())
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { io.Copy(far, near); far.Close() }()
	go func() { io.Copy(near, far); near.Close() }()
}

// through has a client use a proxy for everything but the hosts named.
func through(t *testing.T, proxy *httptest.Server, except ...string) change {
	t.Helper()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Proxy = func(req *http.Request) (*url.URL, error) {
			for _, host := range except {
				if req.URL.Hostname() == host {
					return nil, nil //nolint:nilnil // as net/http wants it
				}
			}
			return at, nil
		}
	}
}

// TestProxy pulls under Docker Hub's real names through a proxy on loopback,
// where nothing else may be connected to.
func TestProxy(t *testing.T) {
	t.Parallel()
	for name, tls := range map[string]bool{"CONNECT": true, "forward": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := fakehub.Start(t, fakehub.Options{TLS: tls, Names: fakehub.DockerHub(), Users: map[string]string{boxUser: canary}})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
			proxy := newProxy(t, hub.Addr(fakehub.RoleRegistry))
			changes := []change{through(t, proxy.Server), reaching(), withCredentials, trusting(t, hub.TokenURL())}
			if tls {
				changes = append(changes, trusted(t, hub.CAPEM()))
			}
			client := newFixture(t, hub.RegistryURL(), changes...)
			if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
				t.Fatal(err)
			}
			b, err := client.OpenBlob(within(t), repo, image.Layers[0].Digest, 0, -1)
			readBlob(t, b, err)
			if proxy.count() == 0 {
				t.Error("the proxy was not used")
			}
			if tls && holdsCanary(proxy.all()) {
				t.Error("the proxy was sent the password")
			}
			if n := hub.AuthorizationLeaks(); n != 0 {
				t.Errorf("%d requests brought a token to the CDN", n)
			}
		})
	}
}

// TestProxyTargets: internal names are refused before the proxy, which would
// resolve them, is asked.
func TestProxyTargets(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, "127.0.0.1:0")
	proxy := newProxy(t, l.Addr())
	for _, at := range []string{"http://localhost", "http://127.0.0.1:" + proxy.port(), "http://169.254.169.254", "http://metadata.google.internal", "https://intranet"} {
		client := newFixture(t, at, through(t, proxy.Server), reaching())
		_, err := client.GetManifest(within(t), repo, "latest")
		wantKind(t, err, Refused)
		if n := client.refusals(t); n != 1 {
			t.Errorf("%s: %d refusals counted, want 1", at, n)
		}
	}
	if proxy.count() > 0 {
		t.Errorf("the proxy was asked:\n%s", proxy.all())
	}
}

// TestProxyIsNoTarget: the proxy's address is allowed as a proxy, not as the
// target of a redirect that NO_PROXY lets by.
func TestProxyIsNoTarget(t *testing.T) {
	t.Parallel()
	s := newScene(t, newRecorder, newRecorder)
	proxy := newProxy(t, s.registry.Listener.Addr())
	s.registry.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, proxy.URL+"/internal", http.StatusTemporaryRedirect)
	}
	client := newFixture(t, "http://registry.example", through(t, proxy.Server, "127.0.0.1"), reaching())
	_, err := client.OpenBlob(within(t), repo, digest.FromString("x"), 0, -1)
	wantKind(t, err, Refused)
	if strings.Contains(proxy.all(), "GET /internal") {
		t.Errorf("the proxy itself was asked:\n%s", proxy.all())
	}
}

// TestSilentProxy: the time-out for connecting also bounds what a proxy does.
func TestSilentProxy(t *testing.T) {
	t.Parallel()
	l, port := listen(t, "127.0.0.1:0")
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { io.Copy(io.Discard, conn); conn.Close() })
		}
	})
	t.Cleanup(open.Wait)
	t.Cleanup(func() { l.Close() })
	for _, scheme := range []string{"http", "https", "socks5"} {
		client := newFixture(t, "https://registry.example", reaching(), func(o *Options) {
			o.ConnectTimeout = 200 * time.Millisecond
			o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(scheme + "://127.0.0.1:" + port) }
		})
		_, err := client.GetManifest(within(t), repo, "latest")
		if e := wantKind(t, err, Unreachable); !e.Temporary() {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// TestTransferThroughAProxy: a transfer may take longer than connecting.
func TestTransferThroughAProxy(t *testing.T) {
	t.Parallel()
	for name, tls := range map[string]bool{"CONNECT": true, "forward": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := fakehub.Start(t, fakehub.Options{TLS: tls, Names: fakehub.DockerHub(), Anonymous: true})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
			proxy := newProxy(t, hub.Addr(fakehub.RoleRegistry))
			const most = 3 * time.Second // a busy machine has connected by then
			client := newFixture(t, hub.RegistryURL(), through(t, proxy.Server), reaching(), trusted(t, hub.CAPEM()), func(o *Options) { o.ConnectTimeout = most })
			hub.Script(fakehub.Always(&fakehub.Fault{Delay: most + time.Second/2}))
			b, err := client.OpenBlob(within(t), repo, image.Layers[0].Digest, 0, -1)
			readBlob(t, b, err)
		})
	}
}
