package limits

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// open opens connections that send the beginning of a request, or nothing, and go on to hold them. Each is read to its end.
func (b *box) open(t *testing.T, many, perAddress int) (ended *sync.WaitGroup, end func()) {
	t.Helper()
	room(t, 2*many+500)
	ended = new(sync.WaitGroup)
	var conns []net.Conn
	for i := range many {
		conn, err := dialer(i/perAddress).DialContext(t.Context(), "tcp", b.mirror)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nX-Slow: ")
		}
		ended.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	}
	end = sync.OnceFunc(func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
		ended.Wait()
	})
	t.Cleanup(end)
	return ended, end
}

// room skips a test that this process has not the descriptors for.
func room(t *testing.T, want int) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(want) {
		testkit.Unable(t, "the tests may open %d files, and %d are wanted", limit.Cur, want)
	}
}

// TestSlowHeads opens thousands of connections, from many addresses, that never come to the end of a request: images are pulled while
// they stand, and after the time-out none is left (F32).
func TestSlowHeads(t *testing.T) {
	many := number(500, 5000)
	b := start(t, "true")
	image := b.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1<<20), fakehub.RandomBlob(2, 1<<20))
	ended, _ := b.open(t, many, 200)
	for i := range number(10, 50) {
		if err := b.pull(t.Context(), client(200), "library/demo", image); err != nil {
			t.Errorf("pull %d: %v", i, err)
		}
	}
	ended.Wait() // hubcap has closed every one of them
	eventually(t, "none is left", func() bool { return b.metric(t, "hubcap_connections", `port="mirror"`) == 0 })
	if n := b.metric(t, "hubcap_connection_limits_total", `limit="head"`); n != many {
		t.Errorf("%d are counted, want %d", n, many)
	}
	b.assertAlive(t)
}

// TestDescriptors has up to a thousand connections at a hubcap that may open 256 files: the ones it can serve get the right bytes, and afterwards
// all do (F33).
func TestDescriptors(t *testing.T) {
	for _, tc := range []struct {
		name     string
		settings []string
		starves  bool
	}{
		{"limits that follow from the descriptors", nil, false},
		{"an operator who knows better", []string{"HUBCAP_MAX_CONNECTIONS=1000", "HUBCAP_MAX_CONNECTIONS_PER_CLIENT=1000"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, "ulimit -n 256", tc.settings...)
			image := b.hub.Image("library/demo", "v1", fakehub.RandomBlob(3, 1<<20), fakehub.RandomBlob(4, 1<<20))
			if err := b.pull(t.Context(), client(200), "library/demo", image); err != nil {
				t.Fatal(err)
			}
			b.settle(t)

			silent, clients := max(100, number(100, 500)), max(200, number(400, 500)) // more than there are descriptors
			_, end := b.open(t, silent, 50)
			var pulled, failed atomic.Int64
			var all sync.WaitGroup
			for i := range clients {
				all.Go(func() {
					if err := b.pull(t.Context(), client(100+i%5), "library/demo", image); err != nil {
						failed.Add(1)
						return
					}
					pulled.Add(1)
				})
			}
			all.Wait()
			b.assertAlive(t)
			starved := b.metric(t, "hubcap_connection_limits_total", `limit="descriptors"`)
			t.Logf("of %d clients beside %d silent connections %d pulled and %d failed; no descriptor for a connection: %d times", clients, silent, pulled.Load(), failed.Load(), starved)

			end()
			eventually(t, "what is held is served again", func() bool {
				b.assertAlive(t)
				return b.pull(t.Context(), client(200), "library/demo", image) == nil
			})
			eventually(t, "the crowd is counted out", func() bool { return b.metric(t, "hubcap_connections", `port="mirror"`) == 0 })
			other := b.hub.Image("library/other", "v1", fakehub.RandomBlob(5, 1<<20))
			if err := b.pull(t.Context(), client(200), "library/other", other); err != nil {
				t.Errorf("afterwards, what is not held: %v", err)
			}
			if starved = b.metric(t, "hubcap_connection_limits_total", `limit="descriptors"`); (starved > 0) != tc.starves {
				t.Errorf("%d times there was no descriptor for a connection", starved)
			}
		})
	}
}

// TestManyBehindOneAddress has 500 clients of one address, such as a branch behind NAT, pull one cold tag with the default settings, and
// again with places for 32 of them at a time. All of them get it, the registry is asked once, and another address is served meanwhile.
func TestManyBehindOneAddress(t *testing.T) {
	const clients = 500
	for _, tc := range []struct {
		name     string
		settings []string
	}{
		{"default settings", nil},
		{"few places", []string{"HUBCAP_MAX_CONNECTIONS=64"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			room(t, 2*clients+500)
			b := start(t, "true", tc.settings...)
			image := b.hub.Image("library/demo", "v1", fakehub.RandomBlob(6, 1<<20))
			ofTag := fakehub.OfKind(fakehub.KindManifest)
			gate := make(chan struct{})
			b.hub.Script(func(r *fakehub.Request) *fakehub.Fault {
				if ofTag(r) {
					<-gate
				}
				return nil
			})
			var all sync.WaitGroup
			for range clients {
				all.Go(func() {
					if err := b.want(t.Context(), client(0), "/v2/library/demo/manifests/v1", image.Manifest.Digest); err != nil {
						t.Error(err)
					}
				})
			}
			eventually(t, "all of them are there", func() bool {
				return b.metric(t, "hubcap_connections", `port="mirror"`)+b.metric(t, "hubcap_connections_waiting", `port="mirror"`) == clients
			})
			if _, err := b.get(t.Context(), client(1), "/v2/"); err != nil {
				t.Errorf("another address: %v", err)
			}
			close(gate)
			all.Wait()
			// One that is refused shows where tokens are to be had.
			pulls, asked, tokens := b.hub.Count(ofTag, fakehub.OfMethod("GET"), fakehub.OfStatus(200)), b.hub.Count(ofTag), b.hub.Count(fakehub.OfKind(fakehub.KindToken))
			if pulls != 1 || asked > 2 || tokens != 1 {
				t.Errorf("the registry was asked %d times, gave the manifest %d times, and %d tokens; want 2, 1, 1", asked, pulls, tokens)
			}
		})
	}
}
