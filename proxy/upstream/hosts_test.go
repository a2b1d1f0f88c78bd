package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/fakehub"
)

// answers is a network that answers with the next of some statuses; 0 is no
// answer. After the last one it is well.
type answers struct {
	statuses []int
	asked    int
	slow     time.Duration // before each answer
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	a.asked++
	status := http.StatusOK
	if len(a.statuses) > 0 {
		status, a.statuses = a.statuses[0], a.statuses[1:]
	}
	select {
	case <-time.After(a.slow):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if status == 0 {
		return nil, errors.New("no answer")
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

func many(status, n int) (all []int) {
	for range n {
		all = append(all, status)
	}
	return all
}

// carefully is a network behind a circuit breaker, without retries.
func carefully(f *fixture, network http.RoundTripper) func(ctx context.Context) error {
	at, err := url.Parse("https://registry.test/v2/x/manifests/y")
	if err != nil {
		panic(err)
	}
	c := &careful{base: network, hosts: f.hosts, budget: f.budget, registry: f.url, patience: time.Hour}
	return func(ctx context.Context) error {
		resp, err := c.RoundTrip((&http.Request{Method: http.MethodGet, URL: at, Header: http.Header{}}).WithContext(ctx))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
}

// TestCircuit counts what reaches a host that fails.
func TestCircuit(t *testing.T) {
	for name, tt := range map[string]struct {
		statuses []int
		requests int // that are made, one after the other
		asked    int // of them reach the host
		failing  bool
	}{
		"no answer":                {many(0, 100), 100, tripAfter, true},
		"502":                      {many(502, 100), 100, tripAfter, true},
		"503":                      {many(503, 100), 100, tripAfter, true},
		"504":                      {many(504, 100), 100, tripAfter, true},
		"500 is one request's":     {many(500, 100), 100, 100, true},
		"404":                      {many(404, 100), 100, 100, false},
		"now and then":             {[]int{0, 0, 0, 0, 200, 0, 0, 0, 0, 200}, 20, 20, false},
		"one failure":              {[]int{200, 0}, 2, 2, true},
		"one failure, then answer": {[]int{200, 0, 200}, 3, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
				network := &answers{statuses: tt.statuses}
				ask := carefully(f, network)
				for range tt.requests {
					if err := ask(t.Context()); errors.As(err, new(*postponed)) && network.asked < tt.asked {
						t.Fatalf("not asked after %d requests", network.asked)
					}
				}
				if network.asked != tt.asked {
					t.Errorf("%d requests reached the host, want %d", network.asked, tt.asked)
				}
				if f.Failing(0) != tt.failing {
					t.Errorf("failing: %t", f.Failing(0))
				}
				if tt.failing {
					time.Sleep(failingFor + time.Second)
					if f.Failing(0) {
						t.Error("a failure of long ago still counts")
					}
				}
			})
		})
	}
}

// TestCircuitTriesAgain lets time pass: one request tries the host, the others
// do not wait for it.
func TestCircuitTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		network := &answers{statuses: many(0, tripAfter+1)}
		ask := carefully(f, network)
		circuits := func(state string) float64 {
			v, _ := f.metrics.Value("hubcap_upstream_circuits", "role", "registry", "state", state)
			return v
		}
		for range tripAfter {
			_ = ask(t.Context())
		}
		if circuits("open") != 1 {
			t.Error("the open circuit is not exported")
		}
		time.Sleep(11 * time.Second)
		_ = ask(t.Context()) // fails again
		if err := ask(t.Context()); network.asked != tripAfter+1 || err == nil {
			t.Fatalf("%d requests reached the host, %v", network.asked, err)
		}
		time.Sleep(11 * time.Second)
		network.slow = time.Second
		tried := make(chan error)
		go func() { tried <- ask(t.Context()) }()
		synctest.Wait()
		if circuits("half_open") != 1 || circuits("open") != 0 {
			t.Error("the half-open circuit is not exported")
		}
		if err := ask(t.Context()); !errors.As(err, new(*postponed)) {
			t.Errorf("a second request while one tries the host: %v", err)
		}
		if err := <-tried; err != nil {
			t.Fatal(err)
		}
		if err := ask(t.Context()); err != nil {
			t.Errorf("the host is well: %v", err)
		}
		if circuits("half_open") != 0 || circuits("open") != 0 {
			t.Error("a closed circuit is exported")
		}
	})
}

// TestLeavingRequestSaysNothingOfItsHost: clients that go do not open a circuit.
func TestLeavingRequestSaysNothingOfItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = time.Hour })
		ask := carefully(f, &answers{slow: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 * tripAfter {
			if err := ask(ctx); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if err := ask(t.Context()); err != nil || f.Failing(0) {
			t.Errorf("%v, failing %t", err, f.Failing(0))
		}
	})
}

// TestFailingIsSeenByAll: who asks at the same moment as others hears the same.
func TestFailingIsSeenByAll(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "https://registry.test")
	f.hosts.of(f.url).learn(http.StatusInternalServerError, nil)
	err := together(8, func(int) error {
		for range 10_000 {
			if !f.Failing(0) {
				return errors.New("the host counts as well")
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	f.hosts.of(f.url).learn(http.StatusOK, nil)
	if f.Failing(0) || f.hosts.troubles.Load() != 0 {
		t.Error("the host is well, and looked at by each request")
	}
}

// TestHostsAreToldApart: a CDN that fails leaves the registry alone.
func TestHostsAreToldApart(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true}, func(o *Options) { o.TryAgain = time.Hour })
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 503}, fakehub.OfRole(fakehub.RoleCDN)))
	for range tripAfter {
		if _, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1); err == nil {
			t.Fatal("no failure")
		}
	}
	hub.Reset()
	_, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
	wantKind(t, err, Unasked)
	if n := hub.Count(fakehub.OfRole(fakehub.RoleCDN)); n != 0 {
		t.Errorf("%d requests to the CDN", n)
	}
	if err := client.head(within(t)); err != nil || client.Failing(0) {
		t.Errorf("the registry is well: %v", err)
	}
}

func TestOffline(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{}, func(o *Options) { o.Offline, o.TryAgain = true, time.Hour })
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	for range 2 * tripAfter {
		_, err := client.GetManifest(within(t), repo, "latest")
		e := wantKind(t, err, Unasked)
		if !e.Failing() || e.Temporary() || !errors.Is(e, errOffline) || !client.Failing(0) {
			t.Errorf("%v: failing %t, temporary %t", e, e.Failing(), e.Temporary())
		}
	}
	if client.log.String() != "" {
		t.Errorf("a host that is not asked is blamed: %s", client.log)
	}
	_, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
	wantKind(t, err, Unasked)
	if n := hub.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestNoDescriptorIsNotTheHostsFault: a process with too many files open leaves
// no host alone for it.
func TestNoDescriptorIsNotTheHostsFault(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
		if got := outcomeOf(req, nil, err); !errors.Is(got, errNotItsFault) {
			t.Errorf("%v: %v", errno, got)
		}
	}
	if got := outcomeOf(req, nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}); errors.Is(got, errNotItsFault) {
		t.Error("a host that refuses connections is not to blame")
	}
}
