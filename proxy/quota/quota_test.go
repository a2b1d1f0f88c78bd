package quota

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

var somebody, another = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

func newMisses(perMinute int) (*Misses, *testkit.Clock, *bytes.Buffer) {
	c, log := testkit.NewClock(time.Unix(1e9, 0)), new(bytes.Buffer)
	return NewMisses(MissesOptions{PerMinute: perMinute, Now: c.Now, Log: slog.New(slog.NewTextHandler(log, nil))}), c, log
}

func TestMisses(t *testing.T) {
	m, c, log := newMisses(60)
	for i := range 60 {
		if wait := m.Wait(somebody); wait != 0 {
			t.Fatalf("after %d misses it waits for %v", i, wait)
		}
		m.Missed(somebody)
	}
	if wait := m.Wait(somebody); wait != time.Second {
		t.Errorf("after 60 misses it waits for %v, want the second until the next one", wait)
	}
	if wait := m.Wait(another); wait != 0 {
		t.Errorf("another client waits for %v", wait)
	}
	c.Advance(time.Second)
	if wait := m.Wait(somebody); wait != 0 {
		t.Errorf("after that second it still waits for %v", wait)
	}
	for range 31 { // that were under way
		m.Missed(somebody)
	}
	if wait := m.Wait(somebody); wait != 31*time.Second {
		t.Errorf("30 beyond its number, it waits for %v", wait)
	}
	m.Missed(another)
	if wait := m.Wait(another); wait != 0 {
		t.Errorf("another client waits for %v after one miss", wait)
	}
	c.Advance(10 * time.Minute)
	for i := range 60 {
		if wait := m.Wait(somebody); wait != 0 {
			t.Fatalf("after a rest and %d misses it waits for %v", i, wait)
		}
		m.Missed(somebody)
	}
	if n := strings.Count(log.String(), "client=10.0.0.1"); n != 2 {
		t.Errorf("it is told %d times, want once for each of two minutes:\n%s", n, log)
	}
}

// TestMissesAtOneTime has many find out at one time that they asked in vain.
func TestMissesAtOneTime(t *testing.T) {
	m, _, _ := newMisses(60)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 10 {
				m.Missed(somebody)
				m.Wait(somebody)
			}
		})
	}
	all.Wait()
	if wait := m.Wait(somebody); wait != 101*time.Second {
		t.Errorf("160 misses of 60 a minute: it waits for %v, want 101 seconds", wait)
	}
}

// TestMissesAreForgotten bounds what is remembered of clients.
func TestMissesAreForgotten(t *testing.T) {
	m, _, _ := newMisses(60)
	for i := range clientsKept + 1000 {
		m.Missed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if n := m.clients.Len(); n != clientsKept {
		t.Errorf("%d clients are remembered, want %d", n, clientsKept)
	}
}
