package cache

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// A round of the scrubber is to take a quarter of the verify interval, so that
// every file is verified well before it is no longer trusted; each is due when
// half of the interval has passed.
const (
	scrubDue  = 2 // share of the interval
	scrubTime = 4
)

// minScrub is the least that the scrubber reads, in bytes a second.
const minScrub = 1 << 20

// The scrubber looks for what is due after a minute and then at each hundredth
// of the interval, but not all the time.
const (
	firstScrub = time.Minute
	minPause   = time.Second
)

// scrubBatch is how many blobs a round verifies at most: a million that are due
// would take room in memory for days.
const scrubBatch = 8192

// scrub verifies what has not been verified for long, until ctx ends.
func (c *Cache) scrub(ctx context.Context) {
	pause := max(c.VerifyInterval/100, minPause)
	timer := time.NewTimer(firstScrub)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if c.scrubRound(ctx) {
			timer.Reset(minPause)
		} else {
			timer.Reset(pause)
		}
	}
}

// scrubRound verifies what is due now, the longest unverified first, and
// reports whether there is more that need not wait. Where several files in a
// row cannot be read, it ends: the others would hardly be better.
func (c *Cache) scrubRound(ctx context.Context) (more bool) {
	due, count := c.due(scrubBatch)
	stats := c.Ledger.Stats()
	perSecond := max(float64(stats.Bytes[0]+stats.Bytes[1])*scrubTime/c.VerifyInterval.Seconds(), minScrub)
	limit := rate.NewLimiter(rate.Limit(perSecond), buffer)
	pace := func(n int) error {
		c.Metrics.Checks.Scrubbed(n)
		return limit.WaitN(ctx, n)
	}
	c.Metrics.Checks.Due(count)
	unreadable := 0 // in a row
	for i, one := range due {
		if ctx.Err() != nil {
			return false
		}
		// What it finds is counted, logged and, where it is wrong, removed where
		// it is found.
		_ = c.verify(ctx, one.digest, pace)
		if _, known := c.unread.find(one.digest); known {
			unreadable++
		} else {
			unreadable = 0
		}
		c.Metrics.Checks.Due(count - i - 1)
		if unreadable == fewUnread {
			c.Log.Warn("the scrubber pauses: several files in a row cannot be read", "files", unreadable)
			return false
		}
	}
	return count > len(due)
}

// aged is a blob and how long ago it was verified.
type aged struct {
	digest digest.Digest
	age    time.Duration
}

// due are the blobs whose verification is half an interval old, or never was,
// at most the given number of them, in the order of its age; count is how many
// there are. Those that cannot be read are reread's.
func (c *Cache) due(most int) (due []aged, count int) {
	now := c.Now()
	oldest := func() {
		slices.SortFunc(due, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
		due = due[:min(len(due), most)]
	}
	c.Ledger.Each(func(d digest.Digest) {
		age, ok := c.trust.age(d, now)
		if !ok {
			age = math.MaxInt64
		}
		if age < c.VerifyInterval/scrubDue {
			return
		}
		if _, known := c.unread.find(d); known {
			return
		}
		count++
		if due = append(due, aged{d, age}); len(due) == 2*most {
			oldest()
		}
	})
	oldest()
	return due, count
}
