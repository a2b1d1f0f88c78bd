package tier

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Status is the tier at one moment. Its texts hold no secret.
type Status struct {
	Bucket   string    `json:"bucket" doc:"Its address"`
	ReadOnly bool      `json:"read_only" doc:"Nothing is written to it"`
	Open     bool      `json:"open" doc:"The circuit: the bucket fails and is not asked"`
	Since    time.Time `json:"since,omitzero" doc:"When the circuit opened"`
	Why      string    `json:"why,omitempty" doc:"The circuit is open"`
	Queue    int       `json:"queue" doc:"Blobs that wait to be written"`

	Missing     int       `json:"missing" doc:"Blobs that this box owns and holds and the bucket lacks, as far as is known; they are written behind new ones"`
	Compared    time.Time `json:"compared,omitzero" doc:"When that was last found out in full"`
	NotCompared string    `json:"not_compared,omitempty" doc:"Why it could not be found out the last time"`

	WriteFailure string    `json:"write_failure,omitempty" doc:"Why the last blob was not taken; absent if it was, or more than an hour ago"`
	WriteSince   time.Time `json:"write_since,omitzero" doc:"Since when none is taken"`

	Wrong   digest.Digest `json:"wrong,omitempty" doc:"Blob whose object gave wrong bytes last"`
	WrongAt time.Time     `json:"wrong_at,omitzero"`
}

// Words says in a few words how the tier is.
func (s Status) Words() string {
	how := "asked before registries"
	switch {
	case s.Open:
		how = "not asked: " + s.Why
	case s.ReadOnly:
		return how + ", not written to"
	}
	if s.WriteFailure != "" {
		how += "; takes nothing: " + s.WriteFailure
	}
	how = fmt.Sprintf("%s; blobs that wait to be written: %d, that it lacks besides: %d", how, s.Queue, s.Missing)
	if s.NotCompared != "" {
		how += ", as far as is known: " + s.NotCompared
	}
	return how
}

// Status returns how the tier is.
func (t *Tier) Status() Status {
	s := Status{Bucket: t.o.URL.Redacted(), ReadOnly: t.o.ReadOnly, Queue: len(t.queue)}
	t.circuit.status(&s)
	t.missing.status(&s)
	t.writes.status(&s, t.o.Now())
	return s
}

func (c *circuit) status(s *Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		s.Open, s.Since, s.Why = true, c.since, c.why.Error()
	}
	s.Wrong, s.WrongAt = c.wrong, c.wrongAt
}

// failureFor is how long a write that failed is told of, if none is tried after it.
const failureFor = time.Hour

func (w *writes) status(s *Status, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why != nil && now.Sub(w.at) < failureFor {
		s.WriteFailure, s.WriteSince = w.why.Error(), w.since
	}
}
