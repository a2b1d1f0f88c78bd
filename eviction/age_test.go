package eviction

import (
	"testing"
	"time"

	"hubcap/metrics"
)

const year = 365 * 24 * time.Hour

// aging is a ledger with a clock that can be set, and its metrics.
type aging struct {
	*Ledger
	all *metrics.Metrics
	now time.Time
}

func newAging() *aging {
	a := &aging{all: metrics.New(), now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	a.Ledger = NewLedger(LedgerOptions{
		Limit: 1000 * kib, SmallSize: 16 * kib, SmallShare: 0.25, High: 0.9, Low: 0.5,
		Now: func() time.Time { return a.now }, Metrics: a.all.Space,
	})
	return a
}

// age returns the sum of the ages of what was evicted from a segment.
func (a *aging) age(t *testing.T, seg Segment) time.Duration {
	t.Helper()
	seconds, ok := a.all.Value("hubcap_eviction_age_seconds", "segment", seg.String())
	if !ok {
		t.Fatal("no age is exported")
	}
	return time.Duration(seconds) * time.Second
}

func TestAgeAtEviction(t *testing.T) {
	const large, small = 100 * kib, 8 * kib
	for _, tc := range []struct {
		name string
		use  func(t *testing.T, a *aging) // of object 1, the only one
		seg  Segment
		want time.Duration
	}{
		{"committed", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, large, 1)
			a.now = a.now.Add(time.Hour)
		}, Large, time.Hour},
		{"committed, small", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, small, 1)
			a.now = a.now.Add(time.Hour)
		}, Small, time.Hour},
		{"used again", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, large, 1)
			a.now = a.now.Add(time.Hour)
			a.Touch(name(1))
			a.now = a.now.Add(time.Minute)
		}, Large, time.Minute},
		{"used again, small", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, small, 1)
			a.now = a.now.Add(time.Hour)
			a.Touch(name(1))
			a.now = a.now.Add(time.Minute)
		}, Small, time.Minute},
		{"looked at", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, large, 1)
			a.now = a.now.Add(time.Hour)
			a.Holds(name(1))
		}, Large, time.Hour},
		{"found at the start", func(_ *testing.T, a *aging) {
			a.Adopt(name(1), large, a.now.Add(-48*time.Hour), false)
			a.now = a.now.Add(time.Hour)
		}, Large, 49 * time.Hour},
		{"left", func(t *testing.T, a *aging) {
			if err := a.Reserve(large); err != nil {
				t.Fatal(err)
			}
			a.Park(name(1), large)
			a.now = a.now.Add(time.Hour)
		}, Large, time.Hour},
		{"left, and found at the start", func(_ *testing.T, a *aging) {
			a.Adopt(name(1), large, a.now.Add(-48*time.Hour), true)
		}, Large, 48 * time.Hour},
		{"clock set back", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, large, 1)
			a.now = a.now.Add(-10 * year)
		}, Large, 0},
		{"clock set forward", func(t *testing.T, a *aging) {
			fill(t, a.Ledger, large, 1)
			a.now = a.now.Add(10 * year)
		}, Large, 10 * year},
		{"used while the clock was ahead", func(_ *testing.T, a *aging) {
			a.Adopt(name(1), large, a.now.Add(10*year), false)
		}, Large, 0},
		{"used before 1970", func(_ *testing.T, a *aging) {
			a.Adopt(name(1), large, time.Time{}, false)
		}, Large, time.Duration(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).Unix()) * time.Second},
		{"used after 2106", func(_ *testing.T, a *aging) {
			a.Adopt(name(1), large, a.now.Add(200*year), false)
		}, Large, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAging()
			tc.use(t, a)
			if got := a.Shrink(1); len(got) != 1 {
				t.Fatalf("evicted %v", got)
			}
			if got := a.age(t, tc.seg); got != tc.want {
				t.Errorf("age %v, want %v", got, tc.want)
			}
			if n, _ := a.all.Value("hubcap_evictions_total", "segment", tc.seg.String()); n != 1 {
				t.Errorf("%v evictions of the segment", n)
			}
		})
	}
}

func TestWhatIsEvictedByNameHasNoAge(t *testing.T) {
	a := newAging()
	fill(t, a.Ledger, 100*kib, 1)
	a.now = a.now.Add(time.Hour)
	a.Evict(name(1))
	if got := a.age(t, Large); got != 0 {
		t.Errorf("age %v of what was not evicted", got)
	}
}

// TestClockThatIsSetEvictsNothing shows that a clock that jumps neither evicts nor changes
// the order of eviction.
func TestClockThatIsSetEvictsNothing(t *testing.T) {
	for _, jump := range []time.Duration{10 * year, -10 * year} {
		a := newAging()
		fill(t, a.Ledger, 100*kib, 1, 2, 3, 4)
		fill(t, a.Ledger, 8*kib, 5)
		a.now = a.now.Add(jump)
		a.Touch(name(1))
		fill(t, a.Ledger, 100*kib, 6)
		if got := a.Sweep(); len(got) != 0 {
			t.Errorf("%v: swept %v", jump, got)
		}
		if got := a.MakeRoom(400 * kib); len(got) != 0 {
			t.Errorf("%v: evicted %v for what fits", jump, got)
		}
		a.now = a.now.Add(-jump)
		for i, want := range []int{2, 3, 4, 1, 6} {
			if got := a.MakeRoom(int64(500+100*i) * kib); len(got) != 1 || got[0] != name(want) {
				t.Errorf("%v: eviction %d was %v, want object %d", jump, i, got, want)
			}
		}
	}
}
