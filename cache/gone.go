package cache

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// maxGone is how many of the blobs that are held no more are remembered. They
// take less than 5 MiB.
const maxGone = 65_536

// maxChanged is how many changes are remembered until somebody asks for them. They
// take about 4 MiB.
const maxChanged = 32_768

// Gone is how a blob that was held since the start has been lost.
type Gone struct {
	At    time.Time // in whole seconds
	Wrong bool      // its file did not hash to its digest, or could not be read; else it was evicted
}

// gone remembers the blobs that were lost last, so that an operator can be told
// why they are missing.
type gone struct {
	mu     sync.Mutex
	known  *digests.Table[lost]
	oldest []digests.Ref // a ring; next is the place that is taken next
	next   int

	changed map[digest.Digest]struct{} // what was stored or lost since Changed was called
	more    bool                       // than maxChanged
}

type lost struct {
	at    int64 // seconds since 1970
	wrong bool
	place int32 // in gone.oldest
}

func newGone() gone {
	return gone{known: digests.New[lost](), oldest: make([]digests.Ref, maxGone), changed: make(map[digest.Digest]struct{})}
}

// note notes that d is held no more. What was noted before remains, until d is
// held again: a damaged file is then removed as an evicted one is.
func (g *gone) note(d digest.Digest, now time.Time, wrong bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changeLocked(d)
	if _, known := g.known.Find(d); known {
		return
	}
	if before := g.oldest[g.next]; before != 0 {
		g.known.Remove(before)
	}
	r := g.known.Add(d)
	*g.known.At(r) = lost{now.Unix(), wrong, int32(g.next)} //nolint:gosec // below maxGone
	g.oldest[g.next] = r
	g.next = (g.next + 1) % maxGone
}

// forget notes that d is held again.
func (g *gone) forget(d digest.Digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changeLocked(d)
	if r, known := g.known.Find(d); known {
		g.oldest[g.known.At(r).place] = 0
		g.known.Remove(r)
	}
}

// changeLocked notes that d is held, or held no more, since now. g.mu is held.
func (g *gone) changeLocked(d digest.Digest) {
	if len(g.changed) == maxChanged {
		g.more = true
		return
	}
	g.changed[d] = struct{}{}
}

// Changed returns which objects were stored or lost since the last call, for the one
// caller that there may be. more says that these are not all of them.
func (c *Cache) Changed() (some map[digest.Digest]struct{}, more bool) {
	c.gone.mu.Lock()
	defer c.gone.mu.Unlock()
	some, more = c.gone.changed, c.gone.more
	c.gone.changed, c.gone.more = make(map[digest.Digest]struct{}), false
	return some, more
}

// Gone returns how d was lost; known is false where it was not, not since the
// start, or too long ago to be remembered.
func (c *Cache) Gone(d digest.Digest) (how Gone, known bool) {
	c.gone.mu.Lock()
	defer c.gone.mu.Unlock()
	r, known := c.gone.known.Find(d)
	if !known {
		return Gone{}, false
	}
	l := c.gone.known.At(r)
	return Gone{At: time.Unix(l.at, 0), Wrong: l.wrong}, true
}
