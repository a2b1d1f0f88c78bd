package freshness

import (
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// failuresKept bounds how many failures are remembered. What somebody makes up
// pushes out what somebody else made up, and costs a question.
const failuresKept = 10_000

// How long failures are remembered.
const (
	// AbsentFor is how long what is not there counts as not there: a client
	// asks by HEAD, by GET, and once more. What is pushed is seen after it.
	AbsentFor = 10 * time.Second
	// checkAgain is how long a held tag is answered without asking once its
	// upstream has failed.
	checkAgain = 5 * time.Second
	// noHeadFor is how long a registry is not asked by HEAD that has not
	// answered it as it should.
	noHeadFor = time.Hour
)

// Failures remembers, for seconds, which questions had no good answer, and
// why. Its methods may be called at any time by anyone.
type Failures struct {
	known *lru.Cache[string, failure]
	now   func() time.Time
}

type failure struct {
	err   error
	until time.Time
}

// remembered is a failure that was of a moment ago: nobody was asked.
type remembered struct{ error }

func (r remembered) Unwrap() error { return r.error }

// Remembered tells whether err is a failure of a moment ago, for which nobody
// was asked now.
func Remembered(err error) bool { return errors.As(err, new(remembered)) }

// NewFailures remembers nothing yet. now is the clock.
func NewFailures(now func() time.Time) *Failures {
	known, err := lru.New[string, failure](failuresKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &Failures{known: known, now: now}
}

// Of is the failure of a question, nil when none is remembered.
func (f *Failures) Of(question string) error {
	one, ok := f.known.Get(question)
	if !ok || !f.now().Before(one.until) {
		return nil
	}
	return one.err
}

// Note remembers the failure of a question for a while.
func (f *Failures) Note(question string, err error, life time.Duration) {
	f.known.Add(question, failure{remembered{err}, f.now().Add(life)})
}

// Forget forgets the failure of a question.
func (f *Failures) Forget(question string) { f.known.Remove(question) }
