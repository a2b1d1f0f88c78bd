package eviction

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestAdoptionBesideServing(t *testing.T) {
	const mib = 1 << 20
	now := time.Now()
	l := newTestLedger(100 * mib)
	l.BeginAdoption(60 * mib)
	if err := l.Reserve(50 * mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Reserve while 60 of 100 MiB may lie there: %v", err)
	}
	if err := l.Reserve(20 * mib); err != nil {
		t.Fatal(err)
	}
	l.Commit(name(9), 20*mib, 20*mib) // filled meanwhile
	l.Adopt(name(1), 10*mib, now, false)
	l.Touch(name(1)) // and used
	l.Adopt(name(2), 10*mib, now, false)
	if !l.Evict(name(2)) { // and damaged
		t.Error("not held")
	}
	if got := l.MakeRoom(90 * mib); len(got) != 0 || l.Evictable() != 10*mib { // what was evicted by name
		t.Errorf("evicted %v, evictable %d: the order of last use is not known yet", got, l.Evictable())
	}
	for i := range 5 { // the walk sees all of it, in the order of last use
		l.Adopt(name(i), 10*mib, now, false)
	}
	l.Adopt(name(9), 20*mib, now, false)
	l.EndAdoption()
	if s := l.Status(); s.Segments[Large].Bytes != 60*mib || s.Segments[Large].Objects != 5 {
		t.Errorf("%+v; want the four that lie there, and the new one", s)
	}
	l.unlinkNow(name(2))
	want := []digest.Digest{name(0), name(3), name(4), name(9), name(1)}
	if got := l.MakeRoom(100 * mib); !slices.Equal(got, want) {
		t.Errorf("evicted in the order %v, want %v", got, want)
	}
}
