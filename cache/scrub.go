package cache

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"hubcap/cache/fill"
)

// A file is due for verification after half of the verify interval, and a round
// of the scrubber takes a quarter of it, so that every file is verified well
// before it is no longer trusted. These are divisors of the interval.
const (
	scrubDue  = 2
	scrubTime = 4
)

// minScrub is the least that the scrubber reads, in bytes a second.
const minScrub = 1 << 20

// The scrubber looks for what is due after firstScrub and then at each hundredth
// of the interval, but pauses for minPause at least.
const (
	firstScrub = time.Minute
	minPause   = time.Second
)

// scrubBatch is the most blobs that a round verifies: a million that are due
// would use memory for days.
const scrubBatch = 8192

// scrubbed is the scrubber's progress.
type scrubbed struct {
	mu     sync.Mutex
	status ScrubStatus
}

func (s *scrubbed) update(change func(*ScrubStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// scrub verifies what was not verified for long, until ctx ends.
func (c *Cache) scrub(ctx context.Context) {
	c.scrubbed.update(func(s *ScrubStatus) { s.Began = c.o.Now() })
	pause := max(c.o.VerifyInterval/100, minPause)
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
// reports whether more is due and need not wait. It ends early when several
// files in a row cannot be read: the others would probably fail too.
func (c *Cache) scrubRound(ctx context.Context) (more bool) {
	due, count := c.due(scrubBatch)
	_, held := c.o.Ledger.Status().Held()
	perSecond := max(float64(held)*scrubTime/c.o.VerifyInterval.Seconds(), minScrub)
	limit := rate.NewLimiter(rate.Limit(perSecond), fill.BufferSize)
	pace := func(n int) error {
		c.scrubbed.update(func(s *ScrubStatus) { s.Bytes += int64(n) })
		return limit.WaitN(ctx, n)
	}
	c.scrubbed.update(func(s *ScrubStatus) { s.Due, s.Began = count, c.o.Now() })
	verified, unreadable := 0, 0 // unreadable in a row
	defer func() {
		c.scrubbed.update(func(s *ScrubStatus) { s.Ended, s.Verified = c.o.Now(), verified })
	}()
	for _, one := range due {
		if ctx.Err() != nil {
			return false
		}
		// verify counts and logs what it finds, and removes wrong files.
		if err := c.verify(ctx, one.digest, pace); err == nil {
			verified++
		}
		if _, known := c.unread.find(one.digest); known {
			unreadable++
		} else {
			unreadable = 0
		}
		c.scrubbed.update(func(s *ScrubStatus) { s.Due-- })
		if unreadable == fewUnread {
			c.o.Log.Warn("the scrubber pauses: several files in a row cannot be read", "files", unreadable)
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

// due returns the blobs that were not verified for half an interval, or never,
// the longest unverified first, at most the given number of them; count is how
// many there are. It leaves those that cannot be read to reread.
func (c *Cache) due(most int) (due []aged, count int) {
	now := c.o.Now()
	oldest := func() {
		slices.SortFunc(due, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
		due = due[:min(len(due), most)]
	}
	for o := range c.o.Ledger.Objects() {
		v, known := c.trust.of(o.Digest)
		age := now.Sub(time.Unix(v.At, 0))
		if !known || age < 0 { // the clock may have been set
			age = math.MaxInt64
		}
		if o.Partial || age < c.o.VerifyInterval/scrubDue {
			continue
		}
		if _, known := c.unread.find(o.Digest); known {
			continue
		}
		count++
		if due = append(due, aged{o.Digest, age}); len(due) == 2*most {
			oldest()
		}
	}
	oldest()
	return due, count
}

// Verdict is what the verification of one file has shown.
type Verdict string

// The verdicts.
const (
	Right      Verdict = "right"
	Wrong      Verdict = "wrong"      // removed; it is fetched again when it is next requested
	Missing    Verdict = "missing"    // there is no file, or a shorter one, which is removed
	Unreadable Verdict = "unreadable" // kept, and tried again
)

// Verify hashes the file of d now, as the scrubber does. The error is ctx's cause.
func (c *Cache) Verify(ctx context.Context, d digest.Digest) (Verdict, error) {
	err := c.verify(ctx, d, func(n int) error {
		c.scrubbed.update(func(s *ScrubStatus) { s.Bytes += int64(n) })
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err == nil:
		return Right, nil
	case errors.Is(err, fill.ErrWrongContent):
		return Wrong, nil
	case errors.Is(err, errNotHeld):
		return Missing, nil
	default:
		return Unreadable, nil
	}
}
