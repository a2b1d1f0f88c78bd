package eviction

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// foreign has the objects from 100 on owned by other boxes.
func foreign(l *Ledger) {
	all := make(map[digest.Digest]bool)
	for i := 100; i < 200; i++ {
		all[name(i)] = true
	}
	l.SetGuests(func(d digest.Digest) bool { return all[d] })
}

func newGuestLedger() *Ledger {
	l := NewLedger(LedgerOptions{Limit: 1000 * kib, SmallSize: 16 * kib, High: 1, Low: 0.75, Now: time.Now, Metrics: metrics.New().Space})
	foreign(l)
	return l
}

// TestGuestsGoFirst: what this box owns takes the room of guests, however recently
// they were used, down to the guests' share.
func TestGuestsGoFirst(t *testing.T) {
	l := newGuestLedger()
	fill(t, l, 100*kib, 1, 2, 3, 4)
	fill(t, l, 100*kib, 100, 101, 102, 103)
	fill(t, l, 20*kib, 104)
	evicted := l.MakeRoom(480 * kib)
	if want := []digest.Digest{name(100), name(101), name(102)}; !slices.Equal(evicted, want) {
		t.Errorf("evicted %v, want the oldest guests", evicted)
	}
	for _, d := range evicted {
		l.unlinkNow(d)
	}
	fill(t, l, 100*kib, 5, 6, 7, 8)
	if evicted = l.MakeRoom(100 * kib); !slices.Equal(evicted, []digest.Digest{name(103)}) {
		t.Errorf("evicted %v, want the guest beyond the share", evicted)
	}
	for _, d := range evicted {
		l.unlinkNow(d)
	}
	fill(t, l, 100*kib, 9)
	if evicted = l.MakeRoom(100 * kib); !slices.Equal(evicted, []digest.Digest{name(1)}) {
		t.Errorf("evicted %v, want the oldest that this box owns: the guests' share is kept", evicted)
	}
	s := l.Status()
	if objects, bytes := s.Held(); s.Guests.Objects != 1 || s.Guests.Bytes != 20*kib || objects != 9 || bytes != s.Used()-s.Evicted {
		t.Errorf("%+v", s)
	}
}

// TestGuestTakesNoRoomOfOwned: a guest that is larger than the guests' share finds
// only the room of other guests, and a smaller one always finds its share.
func TestGuestTakesNoRoomOfOwned(t *testing.T) {
	l := newGuestLedger()
	j := newTestJanitor(l, 1<<40, l.unlinkNow)
	fill(t, l, 100*kib, 1, 2, 3, 4, 5, 6, 7, 8)
	fill(t, l, 100*kib, 100, 101)
	if err := j.ReserveFor(name(102), 250*kib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a large guest: %v, want ErrNoRoom", err)
	}
	if err := j.ReserveFor(name(102), 150*kib); err != nil || l.Holds(name(100)) || !l.Holds(name(1)) {
		t.Errorf("a guest in the place of two: %v", err)
	}
	l.Commit(name(102), 150*kib, 150*kib)
	if err := j.ReserveFor(name(9), 200*kib); err != nil || l.Holds(name(102)) {
		t.Errorf("what this box owns: %v", err)
	}
	l.Commit(name(9), 200*kib, 200*kib)
	if err := j.ReserveFor(name(103), 40*kib); err != nil || l.Holds(name(1)) {
		t.Errorf("a guest within the share, in a full cache: %v", err)
	}
	l.Commit(name(103), 40*kib, 40*kib)
	if got := l.Status().Guests.Objects; got != 1 {
		t.Errorf("%d guests, want 1", got)
	}
}

// TestGuestLeavesItsImage: an image that lacks a guest is still whole at the site, and
// what this box owns of it stays.
func TestGuestLeavesItsImage(t *testing.T) {
	l := newGuestLedger()
	fill(t, l, 4*kib, 10, 11)
	fill(t, l, 100*kib, 1, 2, 100, 3, 4)
	images(l, []int{10, 1, 2, 100}, []int{11, 3, 4, 101}) // 101 is not held here
	evicted := l.MakeRoom(500 * kib)
	if want := []digest.Digest{name(100)}; !slices.Equal(evicted, want) {
		t.Errorf("evicted %v, want the guest alone", evicted)
	}
}

// TestGuestsAreAdopted: what was a guest before a restart is one after it.
func TestGuestsAreAdopted(t *testing.T) {
	l := newGuestLedger()
	l.BeginAdoption(200 * kib)
	l.Adopt(name(1), 100*kib, time.Unix(1, 0), false)
	l.Adopt(name(100), 100*kib, time.Unix(2, 0), false)
	l.EndAdoption()
	if s := l.Status(); s.Guests.Objects != 1 || s.Segments[Large].Objects != 1 {
		t.Errorf("%+v", s)
	}
	if got := slices.Collect(l.Next()); len(got) != 2 || !got[0].Guest {
		t.Errorf("%+v, want the guest first", got)
	}
}
