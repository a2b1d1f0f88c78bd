package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// scripted is a network that answers requests for objects, and health checks
// (question), with statuses; 0 is no answer, negative no connection. It counts
// both.
type scripted struct {
	status   func(object string) int
	question func() int // 401 when nil
	asked    int
	asks     int
	slow     time.Duration // before each answer
	body     func(object string) io.ReadCloser
}

func (n *scripted) RoundTrip(req *http.Request) (*http.Response, error) {
	status, object := http.StatusOK, strings.TrimPrefix(req.URL.Path, "/v2/x/manifests/")
	switch {
	case req.URL.Path == "/v2/" && req.Method == http.MethodGet || req.URL.Path == "/" && req.Method == http.MethodHead:
		n.asks++
		if status = http.StatusUnauthorized; n.question != nil {
			status = n.question()
		}
	default:
		n.asked++
		if n.status != nil {
			status = n.status(object)
		}
	}
	select {
	case <-time.After(n.slow):
	case <-req.Context().Done():
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	switch {
	case status < 0:
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case status == 0:
		return nil, errors.New("no answer")
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}
	if n.body != nil && status == http.StatusOK {
		resp.Body = n.body(object)
	}
	return resp, nil
}

func always(status int) func(string) int { return func(string) int { return status } }

// throughBreaker requests an object through a circuit breaker, without retries.
func throughBreaker(f *fixture, network http.RoundTripper, host string) func(ctx context.Context, object string) error {
	c := &breaker{base: network, hosts: f.o.hosts, budget: f.budget, metrics: f.Client.metrics}
	return func(ctx context.Context, object string) error {
		at, err := url.Parse("https://" + host + "/v2/x/manifests/" + object)
		if err != nil {
			panic(err)
		}
		resp, err := c.RoundTrip((&http.Request{Method: http.MethodGet, URL: at, Header: http.Header{}}).WithContext(ctx))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
}

// objects returns the names of n different objects.
func objects(n int) (all []string) {
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// TestCircuit counts the requests to a host that fails or seems to: a failing
// object does not open the circuit, and the host's health is checked before it
// opens.
func TestCircuit(t *testing.T) {
	one := slices.Repeat([]string{"one"}, 100)
	mixed := slices.Repeat([]string{"bad", "worse", "good"}, 30)
	badAndGood := func(object string) int {
		if object == "good" {
			return 200
		}
		return 503
	}
	for name, tt := range map[string]struct {
		network scripted
		objects []string
		asked   int // requests that reach the host
		asks    int // questions that do
		trouble bool
		blobs   bool // the circuit of a host that serves only blobs opens all the same
	}{
		"one object, no answer":         {scripted{status: always(0)}, one, 100, 1, false, false},
		"one object, 503":               {scripted{status: always(503)}, one, 100, 1, false, false},
		"one object, 500":               {scripted{status: always(500)}, one, 100, 1, false, false},
		"many objects, 502":             {scripted{status: always(502)}, objects(100), 100, 1, false, true},
		"many objects, 404":             {scripted{status: always(404)}, objects(100), 100, 0, false, false},
		"many objects, 501":             {scripted{status: always(501)}, objects(100), 100, 0, false, false},
		"two objects among good ones":   {scripted{status: badAndGood}, mixed, 90, 1, false, false},
		"no connection":                 {scripted{status: always(-1)}, objects(100), tripAfter, 0, true, false},
		"one object, no connection":     {scripted{status: always(-1)}, one, 100, 0, true, false},
		"host does not answer":          {scripted{status: always(0), question: func() int { return 0 }}, objects(100), tripAfter, 1, true, false},
		"host takes no connection":      {scripted{status: always(0), question: func() int { return -1 }}, objects(100), tripAfter, 1, true, false},
		"host answers 503":              {scripted{status: always(503), question: func() int { return 503 }}, objects(100), tripAfter, 1, true, false},
		"host answers 500":              {scripted{status: always(500), question: func() int { return 500 }}, objects(100), tripAfter, 1, true, false},
		"one object, host answers 503":  {scripted{status: always(503), question: func() int { return 503 }}, one, 100, 1, true, false},
		"503, health checks answer 403": {scripted{status: always(503), question: func() int { return 403 }}, objects(100), 100, 1, false, true},
	} {
		for _, host := range []string{"registry.test", "cdn.test"} {
			t.Run(name+", "+host, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
					ask := throughBreaker(f, &tt.network, host)
					tt.network.asked, tt.network.asks = 0, 0
					if tt.blobs && host == "cdn.test" {
						tt.asked, tt.trouble = tripAfter, true
					}
					for _, object := range tt.objects {
						if err := ask(t.Context(), object); errors.As(err, new(*postponed)) && tt.network.asked < tt.asked {
							t.Fatalf("not asked after %d requests", tt.network.asked)
						}
					}
					if tt.network.asked != tt.asked || tt.network.asks != tt.asks {
						t.Errorf("%d requests and %d questions reached the host, want %d and %d", tt.network.asked, tt.network.asks, tt.asked, tt.asks)
					}
					want := Trouble{Registry: tt.trouble && host == "registry.test", Blobs: tt.trouble && host == "cdn.test"}
					if got := f.Trouble(0); got != want {
						t.Errorf("got %+v, want %+v", got, want)
					}
					time.Sleep(failingFor + time.Second)
					if got := f.Trouble(0); got != (Trouble{}) {
						t.Errorf("evidence of long ago still counts: %+v", got)
					}
				})
			})
		}
	}
}

// TestCircuitOpensLater: a host that was healthy a moment ago is checked again.
func TestCircuitOpensLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		n := &scripted{status: always(503)}
		ask := throughBreaker(f, n, "registry.test")
		_ = ask(t.Context(), "first")
		n.question = func() int { return 503 }
		for range 3 {
			for _, object := range objects(10) {
				_ = ask(t.Context(), object)
			}
		}
		if n.asked != 31 || n.asks != 1 || f.Failing(0) {
			t.Errorf("%d requests and %d questions within a moment", n.asked, n.asks)
		}
		time.Sleep(checkPause)
		for _, object := range objects(10) {
			_ = ask(t.Context(), object)
		}
		if n.asked != 32 || n.asks != 2 || !f.Failing(0) {
			t.Errorf("%d requests and %d questions", n.asked, n.asks)
		}
	})
}

func circuits(f *fixture, role, state string) float64 {
	v, _ := f.metrics.Value("hubcap_upstream_circuits", "role", role, "state", state)
	return v
}

// TestCircuitTriesAgain: once the circuit has been open for a while, one request
// checks the host's health; the others do not wait for that.
func TestCircuitTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		n := &scripted{status: always(0), question: func() int { return 0 }}
		ask := throughBreaker(f, n, "registry.test")
		for _, object := range objects(tripAfter) {
			_ = ask(t.Context(), object)
		}
		if circuits(f, "registry", "open") != 1 {
			t.Error("the open circuit is not exported")
		}
		time.Sleep(11 * time.Second)
		for range 2 { // one asks
			if err := ask(t.Context(), "a"); !errors.As(err, new(*postponed)) {
				t.Fatal(err)
			}
		}
		if n.asked != tripAfter || n.asks != 2 {
			t.Fatalf("%d requests and %d questions reached the host", n.asked, n.asks)
		}
		time.Sleep(11 * time.Second)
		n.question, n.status, n.slow = nil, always(200), time.Second
		tried := make(chan error)
		go func() { tried <- ask(t.Context(), "a") }()
		synctest.Wait()
		if circuits(f, "registry", "half_open") != 1 || circuits(f, "registry", "open") != 0 {
			t.Error("the half-open circuit is not exported")
		}
		if err := ask(t.Context(), "b"); !errors.As(err, new(*postponed)) {
			t.Errorf("a second request while one tries the host: %v", err)
		}
		if err := <-tried; err != nil {
			t.Fatal(err)
		}
		if err := ask(t.Context(), "b"); err != nil {
			t.Errorf("the host is healthy: %v", err)
		}
		if circuits(f, "registry", "half_open") != 0 || circuits(f, "registry", "open") != 0 || f.Failing(0) {
			t.Error("a closed circuit is exported")
		}
	})
}

// TestCircuitOfAHostThatAnswersBadly: where health checks are always answered
// with 5xx, one request decides.
func TestCircuitOfAHostThatAnswersBadly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		n := &scripted{status: always(503), question: func() int { return 503 }}
		ask := throughBreaker(f, n, "cdn.test")
		for _, object := range objects(10) {
			_ = ask(t.Context(), object)
		}
		time.Sleep(10 * time.Second)
		for _, object := range objects(10) {
			_ = ask(t.Context(), object)
		}
		if n.asked != tripAfter+1 {
			t.Errorf("%d requests, want one that tries", n.asked)
		}
		time.Sleep(10 * time.Second)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ask(gone, "a"); !errors.Is(err, context.Canceled) { // the one that tries leaves
			t.Error(err)
		}
		n.status = always(200)
		for _, object := range objects(10) {
			if err := ask(t.Context(), object); err != nil {
				t.Fatalf("the host is healthy: %v", err)
			}
		}
	})
}

// hanging is a body whose bytes never come.
type hanging struct{ end func() }

func (h hanging) Read([]byte) (int, error) { h.end(); return 0, errStalled }
func (hanging) Close() error               { return nil }

// TestCircuitOfSilentBodies: the circuit of a host opens that sends headers and
// no bodies for several objects, whatever it answers to health checks. The first
// byte of a body closes it.
func TestCircuitOfSilentBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		n := &scripted{}
		ask := throughBreaker(f, n, "cdn.test")
		get := func(object string) error {
			ctx, cancel := context.WithCancelCause(t.Context())
			n.body = func(string) io.ReadCloser { return hanging{func() { cancel(errStalled) }} }
			return ask(ctx, object)
		}
		for range 10 {
			if err := get("one"); !errors.Is(err, errStalled) {
				t.Fatal(err)
			}
		}
		if got := f.Trouble(0); got != (Trouble{}) {
			t.Errorf("one object is no host: %+v", got)
		}
		for _, object := range objects(10) {
			_ = get(object)
		}
		if n.asked != 10+tripAfter-1 || f.Trouble(0) != (Trouble{Blobs: true}) {
			t.Errorf("%d requests, %+v", n.asked, f.Trouble(0))
		}
		time.Sleep(10 * time.Second)
		for _, object := range objects(10) {
			_ = get(object)
		}
		if n.asked != 10+tripAfter {
			t.Errorf("%d requests, want one that tries", n.asked)
		}
		time.Sleep(10 * time.Second)
		n.body = func(string) io.ReadCloser { return io.NopCloser(strings.NewReader("bytes")) }
		for _, object := range objects(10) {
			if err := ask(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
		if got := f.Trouble(0); got != (Trouble{}) || circuits(f, "redirect", "open") != 0 {
			t.Errorf("bodies come: %+v", got)
		}
	})
}

// TestTroubleEnds: asking for Trouble has a host checked that was down, so that
// its recovery is noticed without another request.
func TestTroubleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		n := &scripted{status: always(-1), question: func() int { return -1 }}
		_ = throughBreaker(f, n, "registry.test")(t.Context(), "a")
		for range 20 { // the evidence stays fresh
			time.Sleep(10 * time.Second)
			if !f.Failing(0) {
				t.Fatal("the registry is down, and does not count as down")
			}
			synctest.Wait()
		}
		if n.asks != 20 {
			t.Errorf("asked %d times in 200 seconds", n.asks)
		}
		n.question = nil
		time.Sleep(10 * time.Second)
		f.Failing(0)
		synctest.Wait()
		if f.Failing(0) || f.o.hosts.troubles.Load() != 0 {
			t.Error("the registry is healthy")
		}
	})
}

// TestTroubleOfManyHosts: blobs are not in trouble if they come from another
// host by now.
func TestTroubleOfManyHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = 10 * time.Second })
		down := throughBreaker(f, &scripted{status: always(-1)}, "cdn1.test")
		up := throughBreaker(f, &scripted{}, "cdn2.test")
		_ = up(t.Context(), "a")
		time.Sleep(time.Second)
		_ = down(t.Context(), "a")
		if got := f.Trouble(0); got != (Trouble{Blobs: true}) {
			t.Errorf("got %+v", got)
		}
		time.Sleep(time.Second)
		_ = up(t.Context(), "a")
		if got := f.Trouble(0); got != (Trouble{}) {
			t.Errorf("got %+v", got)
		}
	})
}

// TestLeavingRequestSaysNothingOfItsHost: requests that their clients cancel do
// not open a circuit.
func TestLeavingRequestSaysNothingOfItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "https://registry.test", func(o *Options) { o.TryAgain = time.Hour })
		ask := throughBreaker(f, &scripted{slow: time.Second}, "registry.test")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 * tripAfter {
			if err := ask(ctx, "a"); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if err := ask(t.Context(), "a"); err != nil || f.Failing(0) {
			t.Errorf("%v, failing %t", err, f.Failing(0))
		}
	})
}

// TestFailingIsSeenByAll: concurrent calls of Failing all report the failure.
func TestFailingIsSeenByAll(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "https://registry.test")
	f.o.hosts.of(f.o.URL).circuit.note("a", unconnected, false)
	err := together(8, func(int) error {
		for range 10_000 {
			if !f.Failing(0) {
				return errors.New("the host counts as healthy")
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	f.o.hosts.of(f.o.URL).circuit.note("b", works, false)
	if f.Failing(0) || f.o.hosts.troubles.Load() != 0 {
		t.Error("the host is healthy, and checked at each request")
	}
}

// TestHostsAreToldApart: a failing CDN is trouble of the blobs and not of the
// registry.
func TestHostsAreToldApart(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true}, func(o *Options) { o.TryAgain = time.Hour })
	layers := [][]byte{fakehub.RandomBlob(1, 10), fakehub.RandomBlob(2, 10), fakehub.RandomBlob(3, 10), fakehub.RandomBlob(4, 10)}
	img := hub.Image(repo, "latest", layers...)
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 503}, fakehub.OfRole(fakehub.RoleCDN)))
	open := func(i int) error {
		_, err := client.OpenBlob(within(t), repo, img.Layers[i].Digest, 0, -1)
		return err
	}
	for i := range tripAfter - 1 {
		wantKind(t, open(i), ServerError)
	}
	wantKind(t, open(tripAfter-1), Unasked) // the first time it failed, and was not sent again
	hub.Reset()
	wantKind(t, open(tripAfter), Unasked)
	if n := hub.Count(fakehub.OfRole(fakehub.RoleCDN)); n != 0 {
		t.Errorf("%d requests to the CDN", n)
	}
	if err := client.head(within(t)); err != nil || client.Failing(0) {
		t.Errorf("the registry is healthy: %v", err)
	}
	if got := client.Trouble(0); got != (Trouble{Blobs: true}) {
		t.Errorf("got %+v", got)
	}
}

// TestFailingObjectIsNoFailingHost requests objects that always fail, at every
// kind of address: others can be fetched all the time.
func TestFailingObjectIsNoFailingHost(t *testing.T) {
	t.Parallel()
	bad := fakehub.RandomBlob(1, 1000)
	d := digest.FromBytes(bad)
	for name, tt := range map[string]struct {
		fault  fakehub.Fault
		filter fakehub.Filter
		ask    func(c *Client) error
	}{
		"manifest": {fakehub.Fault{Status: 502}, fakehub.OfReference("bad"), func(c *Client) error {
			_, err := c.GetManifest(t.Context(), repo, "bad")
			return err
		}},
		"tags": {fakehub.Fault{Status: 503}, fakehub.OfKind(fakehub.KindTags), func(c *Client) error {
			_, err := c.Get(t.Context(), repo, "tags/list", nil)
			return err
		}},
		"referrers": {fakehub.Fault{Status: 504}, fakehub.OfKind(fakehub.KindReferrers), func(c *Client) error {
			_, err := c.Get(t.Context(), repo, "referrers/"+d.String(), nil)
			return err
		}},
		"layer": {fakehub.Fault{CloseBeforeHeaders: true}, fakehub.OfReference(d), func(c *Client) error {
			_, err := c.OpenBlob(t.Context(), repo, d, 0, -1)
			return err
		}},
		"layer at the CDN": {fakehub.Fault{CloseBeforeHeaders: true}, fakehub.All(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(d)), func(c *Client) error {
			_, err := c.OpenBlob(t.Context(), repo, d, 0, -1)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{}, func(o *Options) { o.TryAgain = time.Hour })
			img := hub.Image(repo, "latest", fakehub.RandomBlob(2, 10))
			hub.AddBlob(repo, bad)
			hub.Script(fakehub.Always(&tt.fault, tt.filter))
			for range 4 {
				_ = together(3, func(int) error { return tt.ask(client.Client) })
				if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
					t.Fatal(err)
				}
				b, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
				if got := readBlob(t, b, err); len(got) != 10 {
					t.Errorf("%d bytes", len(got))
				}
				if got := client.Trouble(0); got != (Trouble{}) {
					t.Errorf("%+v", got)
				}
			}
		})
	}
}

func TestOffline(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{}, func(o *Options) { o.Offline, o.TryAgain = new(Offline), time.Hour; o.Offline.Set(true) })
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	for range 10 {
		_, err := client.GetManifest(within(t), repo, "latest")
		e := wantKind(t, err, Unasked)
		if !e.Failing() || e.Temporary() || !errors.Is(e, errOffline) || client.Trouble(0) != (Trouble{Registry: true, Blobs: true}) {
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

// TestNoDescriptorIsNotTheHostsFault: a process with too many open files opens
// no circuit.
func TestNoDescriptorIsNotTheHostsFault(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
		if got := outcomeOf(req, nil, err); got != nothing {
			t.Errorf("%v: %v", errno, got)
		}
	}
	if got := outcomeOf(req, nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}); got != unconnected {
		t.Error("a host that refuses connections is not to blame")
	}
}
