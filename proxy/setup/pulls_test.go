package setup

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

var start = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func TestLastPull(t *testing.T) {
	clock := testkit.NewClock(start)
	p := NewLastPulls(clock.Now)
	if at, ok := p.LastPull(address(1)); ok {
		t.Errorf("it pulled at %v before it ever did", at)
	}
	p.Pulled(address(1))
	clock.Advance(time.Minute)
	p.Pulled(address(1))
	if at, ok := p.LastPull(address(1)); !ok || !at.Equal(start.Add(time.Minute)) {
		t.Errorf("%v, %v", at, ok)
	}
}

// The client that has not pulled for the longest time is forgotten first.
func TestLastPullsAreBounded(t *testing.T) {
	clock := testkit.NewClock(start)
	p := NewLastPulls(clock.Now)
	for n := range maxClients {
		clock.Advance(time.Second)
		p.Pulled(address(n))
	}
	clock.Advance(time.Second)
	p.Pulled(address(0))
	p.Pulled(address(maxClients))
	for n, want := range map[int]bool{0: true, 1: false, 2: true, maxClients: true} {
		if _, ok := p.LastPull(address(n)); ok != want {
			t.Errorf("client %d is remembered: %v", n, ok)
		}
	}
	if n := len(*p.known.Load()); n != maxClients {
		t.Errorf("%d clients", n)
	}
}

func TestLastPullsOfManyAtOnce(t *testing.T) {
	p := NewLastPulls(time.Now)
	var all sync.WaitGroup
	for n := range 64 {
		all.Go(func() {
			for range 10 {
				p.Pulled(address(n % 32))
				p.LastPull(address(n))
			}
		})
	}
	all.Wait()
	if n := len(*p.known.Load()); n != 32 {
		t.Errorf("%d clients, want 32", n)
	}
}

// A warm pull notes it at no cost.
func TestKnownClientTakesNoMemory(t *testing.T) {
	p := NewLastPulls(time.Now)
	p.Pulled(address(1))
	if n := testing.AllocsPerRun(100, func() { p.Pulled(address(1)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
