package upstream

import (
	"sync"
	"time"
)

// tripAfter is how many different objects of a host must have failed, with no
// success between them, before it may be left alone.
const tripAfter = 3

// objectsKept bounds how many failed objects of a host are remembered.
const objectsKept = 16

// askAgain is how long a host is not asked again how it is, while requests to
// it fail.
const askAgain = 5 * time.Second

// failingFor is how long evidence that a host is down counts when nothing
// newer is known.
const failingFor = time.Minute

// outcome is what one exchange says of its host.
type outcome uint8

const (
	works       outcome = iota // an answer, or the first byte of a body
	nothing                    // says nothing: the client left, or the request was not sent
	unconnected                // no connection: the host itself
	failed                     // a 5xx, or no answer on a connection: the host, or the object
	noBlob                     // no blob where the host gives nothing else, or a body that stopped: the host, or the object
)

// health is a host's answer to the question how it is.
type health uint8

const (
	healthUnknown health = iota // it could not be asked
	well                        // an answer below 500
	unwell                      // an answer of 500 or above
	silent                      // no answer
)

// state is the state of a circuit.
type state uint8

const (
	closed   state = iota // requests are sent
	halfOpen              // one request tries the host
	open                  // none is sent
)

// circuit decides whether one host is asked. A failing object is no failing
// host: the circuit opens after tripAfter different objects have failed without
// a success between them, and only if there is evidence about the host itself:
// no connection to it can be made, or it does not answer the question how it
// is. Bodies that stop, and any failure of a host that gives nothing but blobs,
// are evidence on their own, once there are tripAfter of them: the question
// says nothing of blobs.
//
// It closes when the question is answered well; where that does not prove
// enough, one request is sent to try the host. It does no I/O. Its methods may
// be called at any time by anyone.
type circuit struct {
	now      func() time.Time
	tryAgain time.Duration        // how long it stays open
	blobs    bool                 // the host gives nothing but blobs
	moved    func(from, to state) // called with mu held
	bad      func()               // called with mu held, for new evidence that the host is down

	mu      sync.Mutex
	state   state
	until   time.Time          // open: when the host is tried again
	failed  map[string]outcome // the objects that failed since the last success
	down    time.Time          // since when there is evidence against the host; zero for none
	latest  time.Time          // when there last was
	asked   time.Time          // when the host was last asked how it is
	asking  bool               // it is being asked
	success time.Time          // the last one
}

// admit reports whether a request may be sent, or how long it has to wait. The
// host is asked how it is before a trial: see tried.
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
	c.move(halfOpen)
	return true, true, 0
}

// tried takes the host's answer before a trial. It reports whether the request
// is sent, and whether that is still a trial.
func (c *circuit) tried(h health) (ok, trial bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = c.now()
	switch {
	case c.state != halfOpen: // something has succeeded in the meantime
		return true, false
	case h == silent:
		c.shut()
		return false, false
	case h == well && c.noBlobs() < tripAfter:
		c.recover()
		return true, false
	default: // the question may be one that this host answers badly, or says too little
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
		c.recover()
	case nothing:
		if trial && c.state == halfOpen { // the next request tries
			c.until = c.now()
			c.move(open)
		}
	default:
		if c.blobs && how == failed {
			how = noBlob
		}
		if _, known := c.failed[object]; known || len(c.failed) < objectsKept {
			c.failed[object] = how
		}
		if how == unconnected {
			c.evidence()
		}
		if trial && c.state == halfOpen {
			c.shut()
		}
		c.trip()
	}
}

// due reports whether the host is to be asked how it is, by the caller, who
// then calls answered: not if that was less than pause ago.
func (c *circuit) due(pause time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking || len(c.failed) == 0 || !c.asked.IsZero() && c.now().Sub(c.asked) < pause {
		return false
	}
	c.asking = true
	return true
}

// answered takes the host's answer.
func (c *circuit) answered(h health) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking, c.asked = false, c.now()
	switch h {
	case well:
		if c.noBlobs() < tripAfter {
			c.vindicate()
		}
	case unwell, silent:
		c.evidence()
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

// stateNow is the circuit's state.
func (c *circuit) stateNow() state {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// The rest is called with mu held.

// recover forgets everything against the host.
func (c *circuit) recover() {
	clear(c.failed)
	c.down = time.Time{}
	c.move(closed)
}

// vindicate takes the blame for failed objects from the host, which is well.
func (c *circuit) vindicate() {
	for object, how := range c.failed {
		if how != noBlob {
			delete(c.failed, object)
		}
	}
	c.down = time.Time{}
	c.move(closed)
}

// evidence notes that the host itself is down.
func (c *circuit) evidence() {
	c.latest = c.now()
	if c.down.IsZero() {
		c.down = c.latest
	}
	c.bad()
}

// noBlobs is how many blobs have not come, or not to their end.
func (c *circuit) noBlobs() (n int) {
	for _, how := range c.failed {
		if how == noBlob {
			n++
		}
	}
	return n
}

// trip opens the circuit where there is enough against the host.
func (c *circuit) trip() {
	if c.state == closed && (c.noBlobs() >= tripAfter || len(c.failed) >= tripAfter && !c.down.IsZero()) {
		c.shut()
	}
}

// shut opens the circuit.
func (c *circuit) shut() {
	c.evidence()
	c.until = c.latest.Add(c.tryAgain)
	c.move(open)
}

func (c *circuit) move(to state) {
	if c.state == to {
		return
	}
	from := c.state
	c.state = to
	c.moved(from, to)
}
