package upstream

import (
	"sync"
	"time"
)

// The pause after a 429 that names none, and its bound when they go on.
const (
	firstPause = 5 * time.Second
	maxPause   = time.Minute
)

// maxSilence is how much is believed of a Retry-After that speaks of no pull
// limit. Limits on requests of any kind are counted over a minute; longer ones
// are mostly mistakes.
const maxSilence = 5 * time.Minute

// silenceProbe is how often one request finds out, during a silence, whether
// its host answers again.
const silenceProbe = time.Minute

// silence is for how long a host that has said 429 is not asked. Its methods
// may be called at any time by anyone.
type silence struct {
	now func() time.Time

	mu     sync.Mutex
	until  time.Time     // the host is not asked before
	pause  time.Duration // the last one that the host did not name; 0 once it has answered
	probed time.Time     // when the silence began, or was last tested
	told   time.Time     // when the operator was last told of a 429
}

// admit reports whether a request may be sent, as a probe of the silence where
// there is one, or how long it has to wait.
func (s *silence) admit() (probe bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !now.Before(s.until) {
		return false, 0
	}
	if now.Sub(s.probed) < silenceProbe {
		return false, s.until.Sub(now)
	}
	s.probed = now
	return true, 0
}

// wait is how long the host wants to be left alone.
func (s *silence) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.until.Sub(s.now()), 0)
}

// begin notes a 429 of any but a pull limit. One that names no time is followed
// by a pause that doubles as long as they go on. It reports whether the
// operator is to be told.
func (s *silence) begin(retryAfter time.Duration, probe bool) (tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if retryAfter <= 0 && now.Before(s.until) && !probe {
		return false // of a request that was under way already
	}
	if retryAfter <= 0 {
		s.pause = min(max(2*s.pause, firstPause), maxPause)
		retryAfter = s.pause
	}
	s.probed = now
	if until := now.Add(min(retryAfter, maxSilence)); probe || until.After(s.until) {
		s.until = until
	}
	if tell = now.Sub(s.told) >= tellAfter; tell {
		s.told = now
	}
	return tell
}

// answered notes an answer that was no 429. That to a probe ends the silence;
// other ones may be of requests that were under way when it began.
func (s *silence) answered(probe bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = 0
	if probe {
		s.until = time.Time{}
	}
}
