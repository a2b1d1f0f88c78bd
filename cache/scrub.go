package cache

import (
	"cmp"
	"context"
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
		c.scrubRound(ctx)
		timer.Reset(pause)
	}
}

// scrubRound verifies what is due now, the longest unverified first.
func (c *Cache) scrubRound(ctx context.Context) {
	due, bytes := c.due()
	perSecond := max(float64(bytes)*scrubTime/c.VerifyInterval.Seconds(), minScrub)
	limit := rate.NewLimiter(rate.Limit(perSecond), buffer)
	pace := func(n int) error {
		c.Metrics.Checks.Scrubbed(n)
		return limit.WaitN(ctx, n)
	}
	c.Metrics.Checks.Due(len(due))
	for i, d := range due {
		if ctx.Err() != nil {
			return
		}
		// What it finds is counted, logged and removed where it is found.
		_ = c.verify(ctx, d, pace)
		c.Metrics.Checks.Due(len(due) - i - 1)
	}
}

// due are the blobs whose verification is half an interval old, or never was,
// in the order of its age; bytes is the size of all that is held.
func (c *Cache) due() (due []digest.Digest, bytes int64) {
	now := c.Now()
	type aged struct {
		digest digest.Digest
		age    time.Duration
	}
	var all []aged
	for _, d := range c.Ledger.Digests() {
		age, ok := c.trust.age(d, now)
		if !ok {
			age = 1<<63 - 1
		}
		if age >= c.VerifyInterval/scrubDue {
			all = append(all, aged{d, age})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
	for _, one := range all {
		due = append(due, one.digest)
	}
	stats := c.Ledger.Stats()
	return due, stats.Bytes[0] + stats.Bytes[1]
}
