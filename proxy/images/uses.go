package images

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hubcap/cache/index"
)

// pullDays is over how many days pulls are counted.
const pullDays = 30

// uses is how often something was pulled, and when last. Pulls are counted without
// a lock, and by day once they are folded.
type uses struct {
	last     atomic.Int64 // seconds since 1970; 0 for never
	unfolded atomic.Int64 // pulls that are not in days yet

	mu   sync.Mutex
	days []index.DayPulls // those of the last pullDays that have any, by day
}

// used notes a use at a time in seconds since 1970; pulls is 1 for a pull, 0 for
// what belongs to one.
func (u *uses) used(at, pulls int64) {
	if u.last.Load() != at {
		u.last.Store(at)
	}
	if pulls > 0 {
		u.unfolded.Add(pulls)
	}
}

// fold brings the pulls into their day and leaves out those that are too old.
func (u *uses) fold() []index.DayPulls {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.last.Load()
	if n := u.unfolded.Swap(0); n > 0 {
		today := dayOf(last)
		if i := len(u.days) - 1; i >= 0 && u.days[i].Day >= today { // the clock may have been set back
			u.days[i].Pulls += n
		} else {
			u.days = append(u.days, index.DayPulls{Day: today, Pulls: n})
		}
	}
	u.days = slices.DeleteFunc(u.days, func(d index.DayPulls) bool { return d.Day <= dayOf(last)-pullDays })
	return slices.Clone(u.days)
}

// pulls returns how many pulls there were in the pullDays before now.
func (u *uses) pulls(now time.Time) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, from := int64(0), dayOf(now.Unix())-pullDays
	if dayOf(u.last.Load()) > from {
		n = u.unfolded.Load()
	}
	for _, d := range u.days {
		if d.Day > from {
			n += d.Pulls
		}
	}
	return int(n)
}

// at returns when the last use was; zero for never.
func (u *uses) at() time.Time {
	if last := u.last.Load(); last > 0 {
		return time.Unix(last, 0)
	}
	return time.Time{}
}

// dayOf returns the day of a time, both since 1970; days begin at midnight UTC.
func dayOf(seconds int64) int64 { return seconds / (24 * 60 * 60) }
