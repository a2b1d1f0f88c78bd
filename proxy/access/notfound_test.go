package access

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

var client1, client2 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

func newNotFoundLimit(perMinute int) (*NotFoundLimit, *testkit.Clock, *bytes.Buffer) {
	c, log := testkit.NewClock(time.Unix(1e9, 0)), new(bytes.Buffer)
	return NewNotFoundLimit(NotFoundOptions{PerMinute: perMinute, Now: c.Now, Log: slog.New(slog.NewTextHandler(log, nil))}), c, log
}

func TestNotFoundLimit(t *testing.T) {
	l, c, log := newNotFoundLimit(60)
	for i := range 60 {
		if wait := l.Wait(client1); wait != 0 {
			t.Fatalf("after %d responses it waits for %v", i, wait)
		}
		l.Count(client1)
	}
	if wait := l.Wait(client1); wait != time.Second {
		t.Errorf("after 60 responses it waits for %v, want the second until the next one", wait)
	}
	if wait := l.Wait(client2); wait != 0 {
		t.Errorf("another client waits for %v", wait)
	}
	c.Advance(time.Second)
	if wait := l.Wait(client1); wait != 0 {
		t.Errorf("after that second it still waits for %v", wait)
	}
	for range 31 { // were under way
		l.Count(client1)
	}
	if wait := l.Wait(client1); wait != 31*time.Second {
		t.Errorf("30 over the limit, it waits for %v", wait)
	}
	l.Count(client2)
	if wait := l.Wait(client2); wait != 0 {
		t.Errorf("another client waits for %v after one response", wait)
	}
	c.Advance(10 * time.Minute)
	for i := range 60 {
		if wait := l.Wait(client1); wait != 0 {
			t.Fatalf("after a pause and %d responses it waits for %v", i, wait)
		}
		l.Count(client1)
	}
	if n := strings.Count(log.String(), "client=10.0.0.1"); n != 2 {
		t.Errorf("%d warnings, want one in each of two minutes:\n%s", n, log)
	}
}

func TestNotFoundLimitConcurrently(t *testing.T) {
	l, _, _ := newNotFoundLimit(60)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 10 {
				l.Count(client1)
				l.Wait(client1)
			}
		})
	}
	all.Wait()
	if wait := l.Wait(client1); wait != 101*time.Second {
		t.Errorf("160 responses at 60 a minute: it waits for %v, want 101 seconds", wait)
	}
}

// TestNotFoundLimitIsBounded counts for more clients than are remembered.
func TestNotFoundLimitIsBounded(t *testing.T) {
	l, _, _ := newNotFoundLimit(60)
	for i := range limitedClients + 1000 {
		l.Count(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if n := l.clients.Len(); n != limitedClients {
		t.Errorf("%d clients are remembered, want %d", n, limitedClients)
	}
}
