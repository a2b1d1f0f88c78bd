package upstream

import (
	"sync"
	"time"
)

// tripAfter is how many different objects of a host must have failed, with no
// success between them, before its circuit may open.
const tripAfter = 3

// objectsKept bounds how many failed objects of a host are remembered.
const objectsKept = 16

// checkPause is the least time between two health checks of a host while
// requests to it fail.
const checkPause = 5 * time.Second

// failingFor is how long evidence that a host is down counts without newer.
const failingFor = time.Minute

// outcome is what one exchange shows about its host.
type outcome uint8

const (
	works       outcome = iota // an answer, or the first byte of a body
	nothing                    // nothing: the client left, or the request was not sent
	unconnected                // no connection: the host itself
	failed                     // a 5xx, or no answer on a connection: the host, or the object
	noBlob                     // no blob from a host that serves only blobs, or a body that broke off: the host, or the object
)

var outcomeNames = [...]string{"", "", "no connection", "failed", "no blob"}

func (o outcome) String() string { return outcomeNames[o] }

// health is the result of a health check.
type health uint8

const (
	healthUnknown health = iota // the check was not sent
	healthy                     // an answer below 500
	unhealthy                   // an answer of 500 or above
	noAnswer
)

// state is the state of a circuit.
type state uint8

const (
	closed   state = iota // requests are sent
	halfOpen              // one request is tried
	open                  // none is sent
)

var stateNames = [...]string{"closed", "half_open", "open"}

func (s state) String() string { return stateNames[s] }

// circuit is the circuit breaker of one host. A failing object is no failing
// host: the circuit opens after tripAfter different objects have failed without
// a success between them, and only with evidence about the host itself: no
// connection can be made, or a health check fails. Bodies that break off, and any
// failure of a host that serves only blobs, are evidence on their own once there
// are tripAfter of them: a health check does not cover blobs.
//
// It closes when a health check succeeds; where that does not prove enough, one
// request is tried. It does no I/O. Its methods are safe for concurrent use.
type circuit struct {
	now      func() time.Time
	tryAgain time.Duration  // how long it stays open
	blobs    bool           // the host serves only blobs
	changed  func(to state) // called with mu held
	evidence func()         // called with mu held, on new evidence that the host is down

	mu       sync.Mutex
	state    state
	since    time.Time          // when state last changed
	until    time.Time          // open: when a request is tried
	failed   map[string]outcome // objects that failed since the last success
	down     time.Time          // of the first evidence against the host; zero for none
	latest   time.Time          // of the latest
	checked  time.Time          // the last health check
	checking bool               // one is running
	success  time.Time          // the last success
	failure  outcome            // the last failure
	failedAt time.Time
}

// admit reports whether a request may be sent, or returns how long it has to
// wait. Before a trial the caller checks the host's health: see tried.
func (c *circuit) admit() (ok, trial bool, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	switch {
	case c.state == closed:
		return true, false, 0
	case c.state == halfOpen:
		return false, false, c.tryAgain
	case now.Before(c.until):
		return false, false, c.until.Sub(now)
	}
	c.change(halfOpen)
	return true, true, 0
}

// tried takes the health check before a trial. It reports whether the request
// is sent, and whether that is still a trial.
func (c *circuit) tried(h health) (ok, trial bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = c.now()
	switch {
	case c.state != halfOpen: // another request has succeeded meanwhile
		return true, false
	case h == noAnswer:
		c.open()
		return false, false
	case h == healthy && c.noBlobs() < tripAfter:
		c.reset()
		return true, false
	default: // some hosts answer health checks with 5xx; and a check proves too little about blobs
		return true, true
	}
}

// note takes the outcome of an exchange about an object.
func (c *circuit) note(object string, how outcome, trial bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch how {
	case works:
		c.success = c.now()
		c.reset()
	case nothing:
		if trial && c.state == halfOpen { // the next request is the trial
			c.until = c.now()
			c.change(open)
		}
	default:
		if c.blobs && how == failed {
			how = noBlob
		}
		c.failure, c.failedAt = how, c.now()
		if _, known := c.failed[object]; known || len(c.failed) < objectsKept {
			c.failed[object] = how
		}
		if how == unconnected {
			c.isDown()
		}
		if trial && c.state == halfOpen {
			c.open()
		}
		c.trip()
	}
}

// due reports whether the caller is to check the host's health and then call
// answered: not within pause of the last check.
func (c *circuit) due(pause time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.checking || len(c.failed) == 0 || !c.checked.IsZero() && c.now().Sub(c.checked) < pause {
		return false
	}
	c.checking = true
	return true
}

// answered takes the result of a health check.
func (c *circuit) answered(h health) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checking, c.checked = false, c.now()
	switch h {
	case healthy:
		if c.noBlobs() < tripAfter {
			c.blameObjects()
		}
	case unhealthy, noAnswer:
		c.isDown()
		c.trip()
	case healthUnknown:
	}
}

// trouble reports whether the host is down, and since when.
func (c *circuit) trouble() (since time.Time, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down, !c.down.IsZero() && c.now().Sub(c.latest) < failingFor
}

// worksSince reports whether the host has worked after t.
func (c *circuit) worksSince(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.success.After(t)
}

// status sets what is known of the circuit.
func (c *circuit) status(s *HostStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Circuit, s.Since, s.LastFailure, s.Failure = c.state.String(), c.since, c.failedAt, c.failure.String()
}

// The rest is called with mu held.

// reset forgets everything against the host and closes the circuit.
func (c *circuit) reset() {
	clear(c.failed)
	c.down = time.Time{}
	c.change(closed)
}

// blameObjects forgets the failures for which a healthy host is not the cause,
// and closes the circuit.
func (c *circuit) blameObjects() {
	for object, how := range c.failed {
		if how != noBlob {
			delete(c.failed, object)
		}
	}
	c.down = time.Time{}
	c.change(closed)
}

// isDown notes that the host itself is down.
func (c *circuit) isDown() {
	c.latest = c.now()
	if c.down.IsZero() {
		c.down = c.latest
	}
	c.evidence()
}

// noBlobs returns how many blobs were not sent, or not to their end.
func (c *circuit) noBlobs() (n int) {
	for _, how := range c.failed {
		if how == noBlob {
			n++
		}
	}
	return n
}

// trip opens the circuit if there is enough evidence against the host.
func (c *circuit) trip() {
	if c.state == closed && (c.noBlobs() >= tripAfter || len(c.failed) >= tripAfter && !c.down.IsZero()) {
		c.open()
	}
}

func (c *circuit) open() {
	c.isDown()
	c.until = c.latest.Add(c.tryAgain)
	c.change(open)
}

func (c *circuit) change(to state) {
	if c.state == to {
		return
	}
	c.state, c.since = to, c.now()
	c.changed(to)
}
