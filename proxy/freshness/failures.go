package freshness

import (
	"errors"
	"time"

	"hubcap/proxy/memory"
)

// failuresKept bounds how many failures are remembered. A client that makes up
// names displaces remembered failures, each of which costs an upstream request.
const failuresKept = 10_000

// How long failures are remembered.
const (
	// NotFoundFor is how long a not-found answer is remembered: clients often
	// ask by HEAD, by GET, and once more. Content pushed meanwhile is seen later
	// by so much.
	NotFoundFor = 10 * time.Second
	// checkAgain is how long a held tag is served without asking after its
	// upstream has failed.
	checkAgain = 5 * time.Second
	// noHeadFor is how long a repository is not asked by HEAD after its registry
	// has not answered HEAD correctly.
	noHeadFor = time.Hour
)

// Failures is a negative cache: it remembers errors by key. It is safe for
// concurrent use.
type Failures struct {
	known *memory.Memory[string, error]
}

// remembered is an error from a Failures.
type remembered struct{ error }

func (r remembered) Unwrap() error { return r.error }

// Remembered reports whether err comes from a Failures, so that no upstream was
// asked now.
func Remembered(err error) bool { return errors.As(err, new(remembered)) }

// NewFailures returns an empty Failures. now is the clock.
func NewFailures(now func() time.Time) *Failures {
	return &Failures{memory.New[string, error](failuresKept, now)}
}

// Of returns the error remembered for a key, or nil.
func (f *Failures) Of(key string) error {
	err, _ := f.known.Get(key)
	return err
}

// Note remembers an error for a time.
func (f *Failures) Note(key string, err error, life time.Duration) {
	f.known.Put(key, remembered{err}, life)
}

// Forget forgets the error of a key.
func (f *Failures) Forget(key string) { f.known.Remove(key) }
