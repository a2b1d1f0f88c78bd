package upstream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// forgetful is a NAT in front of a server that drops what comes over connections
// it has forgotten; new ones work.
type forgetful struct {
	net.Listener
	to string

	mu    sync.Mutex
	known []*atomic.Bool // of each connection, whether it is forgotten
	open  []net.Conn
	over  sync.WaitGroup
}

func newForgetful(t *testing.T, to string) *forgetful {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forgetful{Listener: l, to: to}
	f.over.Go(f.serve)
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for _, one := range f.open {
			one.Close()
		}
		f.mu.Unlock()
		f.over.Wait()
	})
	return f
}

func (f *forgetful) serve() {
	for {
		from, err := f.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", f.to)
		if err != nil {
			from.Close()
			continue
		}
		forgotten := new(atomic.Bool)
		f.mu.Lock()
		f.known, f.open = append(f.known, forgotten), append(f.open, from, to)
		f.mu.Unlock()
		pass := func(to, from net.Conn) {
			defer to.Close()
			buf := make([]byte, 4096)
			for {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				if forgotten.Load() {
					continue
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		f.over.Go(func() { pass(to, from) })
		f.over.Go(func() { pass(from, to) })
	}
}

func (f *forgetful) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.known {
		one.Store(true)
	}
}

func (f *forgetful) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.known)
}

// TestForgottenConnections: requests over connections that a NAT has forgotten
// are answered over new ones, and do not count as failures of the host.
func TestForgottenConnections(t *testing.T) {
	t.Parallel()
	hub := fakehub.Start(t, fakehub.Options{Anonymous: true, Latency: 20 * time.Millisecond})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	nat := newForgetful(t, hub.Host())
	client := newFixture(t, "http://"+nat.Addr().String(), func(o *Options) { o.HeaderTimeout, o.TryAgain = 3*time.Second, time.Hour })
	pull := func(int) error {
		_, err := client.GetManifest(context.WithoutCancel(t.Context()), repo, "latest")
		return err
	}
	if err := together(8, pull); err != nil {
		t.Fatal(err)
	}
	before := nat.connections()
	for range 2 {
		nat.forget()
		if err := together(8, pull); err != nil {
			t.Error(err)
		}
		if err := pull(0); err != nil { // none that is dead is left
			t.Error(err)
		}
	}
	if n := hub.Count(fakehub.OfKind(fakehub.KindPing)); n != 0 {
		t.Errorf("%d health checks", n)
	}
	if client.Trouble(0) != (Trouble{}) || nat.connections() == before {
		t.Errorf("%+v, %d connections and %d before", client.Trouble(0), nat.connections(), before)
	}
}
