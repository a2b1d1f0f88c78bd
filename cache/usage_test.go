package cache

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// TestOrderSurvivesAWrongClock uses blobs one after another while the clock is
// right, far ahead, at the epoch, and right again, with and without a restart
// between: what was used last is evicted last.
func TestOrderSurvivesAWrongClock(t *testing.T) {
	day := func(year int) time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			dir := t.TempDir()
			clock := testkit.NewClock(day(2026))
			open := func() *rig {
				return newRig(t, rigOptions{dir: dir, change: func(o *Options) { o.Now = clock.Now }})
			}
			r := open()
			var all []digest.Digest
			bodies := make(map[digest.Digest][]byte)
			for seed := range uint64(10) {
				body, d := randomContent(750+seed, 5*kib)
				r.mustGet(d, &origin{body: body}, body)
				bodies[d] = body
				all = append(all, d)
			}
			r.settle()
			slices.Sort(all) // in no order of their making
			for i, at := range []time.Time{
				day(2025), day(2024), day(2040), day(2026), day(1970), day(2026), day(2026), time.Unix(0, 0), time.Unix(1, 0), day(2027),
			} {
				clock.Advance(at.Sub(clock.Now()))
				r.mustGet(all[i], down(), bodies[all[i]])
				r.usage.flush(r.Cache)
				if restart {
					r.stop()
					r = open()
				}
			}
			r.stop()
			r = open()
			space := r.o.Ledger.Status() // the janitor measures the index at any time
			if got := r.o.Ledger.MakeRoom(space.Budget - space.Overhead); !slices.Equal(got, all) {
				t.Errorf("evicted in the order\n%v, want\n%v", got, all)
			}
		})
	}
}

// TestUseDuringTheWalk uses a blob before the latest use that the index has is
// known.
func TestUseDuringTheWalk(t *testing.T) {
	clock := testkit.NewClock(time.Unix(100, 0))
	u := newUsage(clock.Now)
	one, two := digest.FromString("1"), digest.FromString("2")
	u.touch(one)
	u.learn(time.Unix(1000, 0))
	u.touch(two)
	batch := u.take()
	if !batch[one].After(time.Unix(1000, 0)) || batch[two].Before(batch[one]) {
		t.Errorf("%v, want both after the 1000 seconds that were known", batch)
	}
	u.touch(one)
	if again := u.take(); again[one].Sub(batch[two]) < time.Second {
		t.Errorf("%v after %v: the index does not tell them apart", again[one], batch[two])
	}
}
