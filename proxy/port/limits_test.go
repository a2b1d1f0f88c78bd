package port

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// crowd is a plain port under limits, whose handler can be made to wait.
type crowd struct {
	*Port
	t       *testing.T
	limits  *Limits
	metrics *metrics.Metrics
	log     *testkit.Log
	gate    chan struct{} // closed when /slow may be answered
	began   chan struct{} // one for each /slow that was asked
	clock   time.Time
	served  chan error
}

func newCrowd(t *testing.T, total, perClient int, change ...func(*Options, *LimitsOptions)) *crowd {
	t.Helper()
	c := &crowd{
		t: t, metrics: metrics.New(), log: new(testkit.Log), clock: time.Now(),
		gate: make(chan struct{}), began: make(chan struct{}, 1000), served: make(chan error, 1),
	}
	l := LimitsOptions{
		Total: total, PerClient: perClient, Waiting: 64, Now: func() time.Time { return c.clock },
		Metrics: c.metrics.Ports, Log: slog.New(slog.NewTextHandler(c.log, nil)),
	}
	o := Options{
		Name: "mirror", Address: "127.0.0.1:0", HeadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeader: 16 << 10,
		Now: time.Now, Metrics: c.metrics.Ports, Log: slog.New(slog.DiscardHandler),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				c.began <- struct{}{}
				<-c.gate
			}
			_, _ = io.WriteString(w, "ok")
		}),
	}
	for _, one := range change {
		one(&o, &l)
	}
	c.limits = NewLimits(l)
	o.Limits = c.limits
	var err error
	c.Port, err = Listen(o)
	must(t, err)
	go func() { c.served <- c.Serve() }()
	t.Cleanup(func() {
		c.Close()
		if err := <-c.served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		eventually(t, "all connections are counted out", func() bool { return c.value("hubcap_connections") == 0 && len(c.limits.clients) == 0 })
	})
	return c
}

func (c *crowd) value(name string, labels ...string) int {
	c.limits.mu.Lock() // what is counted together is seen together
	defer c.limits.mu.Unlock()
	n, _ := c.metrics.Value(name, labels...)
	return int(n)
}

func (c *crowd) limited(limit string) int {
	return c.value("hubcap_connection_limits_total", "limit", limit)
}

var eventually = testkit.Eventually

// client is one connection of a client.
type client struct {
	net.Conn
	in *bufio.Reader
}

// connect is a connection from an address.
func (c *crowd) connect(from string) *client {
	c.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", c.Addr().String())
	must(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

// ask sends a request for a path.
func (c *client) ask(path string) {
	_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
}

// status is that of the next answer, 0 when the connection has ended instead.
func (c *client) status() int {
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// gets fails unless the client is answered.
func (c *client) gets(t *testing.T, who string) {
	t.Helper()
	c.ask("/")
	if got := c.status(); got != http.StatusOK {
		t.Errorf("%s: status %d, want 200", who, got)
	}
}

// busy is a connection with a request under way.
func (c *crowd) busy(from string) *client {
	c.t.Helper()
	one := c.connect(from)
	one.ask("/slow")
	select {
	case <-c.began:
	case <-time.After(testkit.Patience):
		c.t.Fatal("a connection within the limit is not served")
	}
	return one
}

const one, another = "127.0.0.1", "127.0.0.2"

// TestConnectionsOfOneClient: what an address opens beyond its limit waits for
// its own connections, and nobody else does.
func TestConnectionsOfOneClient(t *testing.T) {
	c := newCrowd(t, 64, 2)
	first, second := c.busy(one), c.busy(one)
	var excess []*client
	for range 3 {
		excess = append(excess, c.connect(one))
		excess[len(excess)-1].ask("/")
	}
	eventually(t, "they wait", func() bool { return c.value("hubcap_connections_waiting") == 3 })
	if n := c.limited("per_client"); n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
	c.connect(another).gets(t, "another client")
	if n := c.value("hubcap_connections_waiting"); n != 3 {
		t.Errorf("%d wait, want 3", n)
	}
	close(c.gate)
	for _, who := range append(excess, first, second) {
		if got := who.status(); got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	}
	c.connect(one).gets(t, "a new connection in place of an idle one")
	if n := c.limited("waiting"); n != 0 {
		t.Errorf("%d were refused", n)
	}
}

// TestTurns: a free place goes to the addresses by turns, whoever came first, and
// an address that has all it may have is passed over.
func TestTurns(t *testing.T) {
	c := newCrowd(t, 3, 2)
	c.busy(one)
	c.busy(one)
	silent := c.connect(another)
	eventually(t, "it has a place", func() bool { return c.value("hubcap_connections") == 3 })
	var waiting []*client
	for i, from := range []string{one, "127.0.0.3", "127.0.0.3", "127.0.0.4"} {
		waiting = append(waiting, c.connect(from))
		waiting[i].ask("/slow")
		eventually(t, "it waits", func() bool { return c.value("hubcap_connections_waiting") == i+1 })
	}
	must(t, silent.Close())
	<-c.began
	var turns []string
	c.limits.mu.Lock()
	for _, who := range c.limits.turns {
		turns = append(turns, who.addr.String())
	}
	c.limits.mu.Unlock()
	if got := strings.Join(turns, " "); got != "127.0.0.1 127.0.0.4 127.0.0.3" {
		t.Errorf("the next turns are those of %s", got)
	}
	close(c.gate)
	for _, who := range waiting {
		if got := who.status(); got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	}
}

// TestTooManyWait refuses what one address has beyond half of those that wait.
func TestTooManyWait(t *testing.T) {
	c := newCrowd(t, 64, 1, func(_ *Options, l *LimitsOptions) { l.Waiting = 4 })
	c.busy(one)
	c.busy(another)
	var waiting []*client
	for i, from := range []string{one, one, another, another} {
		waiting = append(waiting, c.connect(from))
		waiting[i].ask("/")
		eventually(t, "it waits", func() bool { return c.value("hubcap_connections_waiting") == i+1 })
	}
	if got := c.connect(one).status(); got != 0 {
		t.Errorf("one too many is answered %d", got)
	}
	third := c.connect("127.0.0.3")
	third.gets(t, "a third client")
	must(t, third.Close())
	eventually(t, "its place is free", func() bool { return c.value("hubcap_connections") == 2 })
	c.busy("127.0.0.3")
	if got := c.connect("127.0.0.3").status(); got != 0 {
		t.Errorf("one for which there is no room to wait is answered %d", got)
	}
	if n := c.limited("waiting"); n != 2 {
		t.Errorf("%d are refused, want 2", n)
	}
	close(c.gate)
	for _, who := range waiting {
		if got := who.status(); got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	}
}

// TestAllWait has more connections than may be served and wait together: they
// are accepted later.
func TestAllWait(t *testing.T) {
	c := newCrowd(t, 1, 1, func(_ *Options, l *LimitsOptions) { l.Waiting = 2 })
	c.busy(one)
	var all []*client
	for i := range 6 {
		all = append(all, c.connect(fmt.Sprintf("127.0.0.%d", 10+i)))
		all[i].ask("/")
	}
	eventually(t, "they wait", func() bool { return c.value("hubcap_connections_waiting") == 3 }) // one beyond, before it stops accepting
	close(c.gate)
	for _, who := range all {
		if got := who.status(); got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	}
}

// TestFiveHundredBehindOneAddress: all of them are answered while others are.
func TestFiveHundredBehindOneAddress(t *testing.T) {
	const many = 500
	c := newCrowd(t, 64, 32, func(_ *Options, l *LimitsOptions) { l.Waiting = 2 * many })
	var all sync.WaitGroup
	for range many {
		who := c.connect(one)
		all.Go(func() {
			who.ask("/slow")
			if got := who.status(); got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		})
	}
	eventually(t, "all of them are served or wait", func() bool {
		return c.value("hubcap_connections") == 32 && c.value("hubcap_connections_waiting") == many-32
	})
	for range 10 {
		c.connect(another).gets(t, "another client")
	}
	close(c.gate)
	all.Wait()
}

// TestConnectionsOfAProxy are of many clients.
func TestConnectionsOfAProxy(t *testing.T) {
	c := newCrowd(t, 64, 2, func(_ *Options, l *LimitsOptions) { l.Exempt = func(a netip.Addr) bool { return a.String() == one } })
	for range 8 {
		c.busy(one)
	}
	close(c.gate)
}

func TestConnectionsInAll(t *testing.T) {
	c := newCrowd(t, 2, 2)
	first, second := c.busy(one), c.busy(another)
	waiting := c.connect("127.0.0.3")
	waiting.ask("/")
	eventually(t, "the third waits", func() bool { return c.limited("total") == 1 })
	if n := c.value("hubcap_connections"); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	close(c.gate) // each of the first two becomes idle, and the third is waiting
	if got := waiting.status(); got != http.StatusOK {
		t.Errorf("the one that waited: status %d", got)
	}
	for _, who := range []*client{first, second} {
		if got := who.status(); got != http.StatusOK {
			t.Errorf("one that made room: status %d before that", got)
		}
	}
	c.connect(one).gets(t, "a fourth")
	if n := c.limited("idle"); n < 2 {
		t.Errorf("%d idle ones made room, want 2 at least", n)
	}
}

// TestWaitingEndsWithThePort looks for a listener that waits for room for ever.
func TestWaitingEndsWithThePort(t *testing.T) {
	c := newCrowd(t, 1, 1)
	c.busy(one)
	c.connect(another)
	eventually(t, "the second waits", func() bool { return c.limited("total") == 1 })
	c.Close()
	close(c.gate)
}

// TestPortsShareTheirLimits has one client at two ports.
func TestPortsShareTheirLimits(t *testing.T) {
	c := newCrowd(t, 64, 1)
	c.busy(one)
	second, err := Listen(Options{
		Name: "auth", Address: "127.0.0.1:0", HeadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeader: 16 << 10,
		Handler: http.NotFoundHandler(), Limits: c.limits, Now: time.Now, Metrics: c.metrics.Ports, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- second.Serve() }()
	defer func() { second.Close(); <-served }()
	conn, err := net.Dial("tcp", second.Addr().String())
	must(t, err)
	defer conn.Close()
	eventually(t, "it waits for the connection at the other port", func() bool {
		return c.value("hubcap_connections_waiting", "port", "auth") == 1
	})
	close(c.gate)
}

// TestStarved has a connection that waits for a request make room for a new
// one when the process has no descriptor for that; where there is none, the
// listener goes on after a moment.
func TestStarved(t *testing.T) {
	c := newCrowd(t, 64, 64)
	running, idle := c.busy(one), c.connect(one)
	idle.gets(t, "before")
	eventually(t, "it waits", func() bool {
		c.limits.mu.Lock()
		defer c.limits.mu.Unlock()
		for one := range c.limits.open {
			if one.idle.Load() {
				return true
			}
		}
		return false
	})
	starve := func() { c.limits.starved(c.listener.(*listener), syscall.EMFILE) }
	starve()
	if got := idle.status(); got != 0 {
		t.Errorf("an idle connection is answered %d", got)
	}
	starve()
	close(c.gate)
	if got := running.status(); got != http.StatusOK {
		t.Errorf("a running answer: status %d", got)
	}
	if n := c.limited("descriptors"); n != 2 {
		t.Errorf("counted %d times, want 2", n)
	}
}

// TestSlowHeads opens connections that never send the end of a request's head:
// after the time-out none is left, and others are served all along.
func TestSlowHeads(t *testing.T) {
	const many = 500
	const most = 3 * time.Second // an honest client has sent its head by then on a busy machine, too
	c := newCrowd(t, 2*many, 2*many, func(o *Options, _ *LimitsOptions) { o.HeadTimeout = most })
	var slow sync.WaitGroup
	for i := range many {
		conn := c.connect(one)
		if i%2 == 0 { // the other half does not even begin
			_, _ = io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		}
		slow.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	}
	eventually(t, "they are open", func() bool { return c.limited("head") > 0 || c.value("hubcap_connections") >= many })
	for range 20 {
		c.connect(another).gets(t, "an honest client")
	}
	slow.Wait() // until hubcap has closed every one of them
	eventually(t, "they are counted", func() bool { return c.limited("head") == many })
}

// TestTooMuchHead answers a head above the limit at once, and closes the connection.
func TestTooMuchHead(t *testing.T) {
	for name, head := range map[string]string{
		"a URL of 64 KiB":             "GET /v2/" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a URL of 2 MB":               "GET /v2/" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a header of 2 MB":            "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 2<<20) + "\r\n\r\n",
		"an Authorization of 1 MB":    "GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"200 headers of 200 bytes":    "GET /v2/ HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Many: "+strings.Repeat("a", 200)+"\r\n", 200) + "\r\n",
		"a URL of 64 KiB that stalls": "GET /v2/" + strings.Repeat("a", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t, 64, 64)
			conn := c.connect(one)
			go func() { _, _ = io.WriteString(conn, head) }() // it need not be read to its end
			status, err := conn.in.ReadString('\n')
			if !strings.Contains(status, " 431 ") {
				t.Errorf("%q, %v; want 431", status, err)
			}
			_, _ = io.Copy(io.Discard, conn) // until it has hung up
			eventually(t, "it is counted", func() bool { return c.limited("head") == 1 })
		})
	}
}

// TestRequestsOnOneConnection come in order, however many are sent at once.
func TestRequestsOnOneConnection(t *testing.T) {
	c := newCrowd(t, 64, 64)
	conn := c.connect(one)
	const many = 1000
	go conn.ask("/" + strings.Repeat(" HTTP/1.1\r\nHost: x\r\n\r\nGET /", many-1))
	for i := range many {
		if got := conn.status(); got != http.StatusOK {
			t.Fatalf("answer %d: status %d", i, got)
		}
	}
}
