package site

import (
	"net/url"
	"sync"
	"time"

	"hubcap/metrics"
)

// For how long a box is not asked: one that failed, a sister that did, a box that
// gave wrong bytes, and one that is this box under another name.
const (
	restFailed = 10 * time.Second
	restSister = time.Minute
	restWrong  = time.Minute
	restSelf   = time.Hour
)

// box is a box of this site, or a sister.
type box struct {
	url   *url.URL
	name  string // as it is configured
	self  bool
	place metrics.Place

	mu      sync.Mutex
	until   time.Time // when it is asked again
	why     error     // it rests; nil if it does not
	failing time.Time // since when it has failed; zero once it has given an answer
	failure error     // the last one since then
	seen    seen
}

// sister reports whether it is a box of another site.
func (b *box) sister() bool { return b.place == metrics.PlaceSister }

// rests reports whether the box is not asked at the time now.
func (b *box) rests(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.until)
}

// rest has a box not asked for a while, because of why.
func (s *Site) rest(b *box, length time.Duration, why error) {
	s.o.Metrics.Failed(b.place)
	if s.failed(b, length, why) {
		s.o.Log.Warn("another box is not asked for a while", "box", b.name, "for", length, "err", why)
	}
}

// failed is rest without a metric and a line in the log. It reports whether the box
// has not failed before since its last answer.
func (s *Site) failed(b *box, length time.Duration, why error) (news bool) {
	now := s.o.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := now.Add(length); until.After(b.until) {
		b.until, b.why = until, why
	}
	b.failure = why
	if news = b.failing.IsZero(); news {
		b.failing = now
	}
	return news
}

// answered notes that a box works.
func (s *Site) answered(b *box) {
	b.mu.Lock()
	was := b.failing
	b.failing, b.failure = time.Time{}, nil
	b.mu.Unlock()
	if !was.IsZero() {
		s.o.Log.Info("another box answers again", "box", b.name, "after", s.o.Now().Sub(was).Round(time.Second))
	}
}
