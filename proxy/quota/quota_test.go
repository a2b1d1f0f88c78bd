package quota

import (
	"bytes"
	"log/slog"
	"math"
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

func TestShares(t *testing.T) {
	const none = math.MaxInt64
	for _, tc := range []struct {
		name        string
		descriptors int
		memory      int64
		want        Process
	}{
		{"ulimit -n 256", 256, none, Process{Connections: 51, Waiting: 26, Fills: 32, Transfers: 32, Manifests: 64 << 20}},
		{"ulimit -n 1024", 1024, none, Process{Connections: 204, Waiting: 104, Fills: 128, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives", 524_288, none, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"no limit", math.MaxInt32, none, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB", 1 << 20, 205 << 20, Process{Connections: 820, Waiting: 4096, Fills: 102, Transfers: 64, Manifests: 205 << 17}},
		{"a container of 64 MiB", 1 << 20, 51 << 20, Process{Connections: 204, Waiting: 4096, Fills: 25, Transfers: 64, Manifests: 51 << 17}},
		{"next to nothing", 16, 1 << 10, Process{Connections: 1, Waiting: 1, Fills: 1, Transfers: 16, Manifests: 128}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Descriptors, tc.want.Memory = tc.descriptors, tc.memory
			if got := of(tc.descriptors, tc.memory); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}
