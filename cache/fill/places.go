package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Place is where a blob may be had nearer than at its registry. It holds none of
// the registry's connections, and its bytes are not paced.
type Place struct {
	Source
	Name  string // counts its connections
	Kind  string // what clients are told: peer, s3 or sister
	Wrong func() // notes that it gave wrong bytes
	// Store says that it waits for no box: its connections are not counted with those
	// to boxes, which may wait for what comes from here.
	Store bool
}

// Nearer knows the places that are nearer than a registry. A place that fails is
// left at once, and it is for Nearer not to name it for a while.
type Nearer interface {
	// Places returns the places to ask for the blob now, in this order, before
	// its registry.
	Places() []Place
	// Boxes reports whether one of them may be a box that fetches the blob for
	// this one, and so waits for others as this one waits for it.
	Boxes() bool
}

// ErrFed refuses a box that would read a fill that boxes may feed: it might be the
// one that this fill waits for.
var ErrFed = errors.New("another box may feed this fill; the bytes are to be had elsewhere")

// chooser is the Source of a fill, or of a blob that is not stored: for each
// transfer the first place that answers, its registry at last.
//
// Once the registry was asked, no other place is asked any more. So a fill that
// waits for boxes can become one that does not, and never the other way round.
type chooser struct {
	fills *Fills
	want  Want
	slots bool // transfers need a slot each: those of fills do

	mu   sync.Mutex
	far  bool             // the registry was asked
	near int              // transfers from places, those being opened included
	used map[string]Place // that gave bytes
	lost bool             // a place did not give the blob
	size int64            // of the blob, once a source has said it; else negative
}

func newChooser(s *Fills, want Want, slots bool) *chooser {
	c := &chooser{fills: s, want: want, slots: slots, size: -1, used: make(map[string]Place)}
	c.far = want.Near == nil || s.RecentlyWrong(want.Digest) || len(want.Near.Places()) == 0
	return c
}

// fed reports whether boxes may feed the fill now or later.
func (c *chooser) fed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return (!c.far || c.near > 0) && c.want.Near.Boxes()
}

// Open implements Source.
func (c *chooser) Open(ctx context.Context, off, n int64) (*Stream, error) {
	if stream, err := c.openNear(ctx, off, n); stream != nil || err != nil {
		return stream, err
	}
	release := func() {}
	if c.slots {
		var err error
		if release, err = c.fills.slots.acquire(ctx, c.want.Host); err != nil {
			return nil, err
		}
	}
	stream, err := c.want.Source.Open(ctx, off, n)
	if err != nil {
		release()
		return nil, err
	}
	if stream.Place != nil {
		c.note(*stream.Place, stream.Size)
	} else {
		c.sized(stream.Size)
	}
	return releasing(stream, release), nil
}

// How often, and how long apart, places are asked again that are fed themselves: when
// the box that fed this fill, or should have, has died, the next one to ask has just lost
// it too, and asks the registry in a moment.
const (
	fedTries = 5
	fedPause = 100 * time.Millisecond
)

// openNear opens the blob at the first place that has it; nil if that is none. The
// error is ctx's cause.
func (c *chooser) openNear(ctx context.Context, off, n int64) (*Stream, error) {
	if !c.beginNear() {
		return nil, nil
	}
	for try := 0; ; try++ {
		stream, fed, err := c.openFirst(ctx, off, n)
		if stream != nil {
			return stream, nil
		}
		if again := fed && try < fedTries && c.lostPlace(); err == nil && !again {
			c.endNear(true)
			return nil, nil
		}
		if err == nil {
			err = sleep(ctx, fedPause)
		}
		if err != nil {
			c.endNear(false)
			return nil, err
		}
	}
}

// openFirst asks each place once. fed says that one of them is fed itself.
func (c *chooser) openFirst(ctx context.Context, off, n int64) (stream *Stream, fed bool, err error) {
	for _, p := range c.want.Near.Places() {
		stream, err := c.openAt(ctx, p, off, n)
		if err == nil {
			return stream, false, nil
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		if errors.Is(err, ErrFed) {
			fed = true
		} else {
			c.lose()
		}
		c.fills.o.Log.Debug("a place does not give a blob", "digest", c.want.Digest, "place", p.Name, "err", err)
	}
	return nil, fed, nil
}

// openAt opens the blob at one place.
func (c *chooser) openAt(ctx context.Context, p Place, off, n int64) (*Stream, error) {
	release := func() {}
	if c.slots {
		var err error
		if release, err = c.fills.slotsOf(p).acquire(ctx, p.Name); err != nil {
			return nil, err
		}
	}
	stream, err := p.Open(ctx, off, n)
	if err == nil {
		if err = c.check(stream, off); err != nil {
			stream.Body.Close()
			p.Wrong()
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	stream.Place = &p
	c.note(p, stream.Size)
	return releasing(stream, func() { release(); c.endNear(false) }), nil
}

// lose notes that a place does not give the blob.
func (c *chooser) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
}

// lostPlace reports whether a place that gave bytes, or should have, gives none now.
func (c *chooser) lostPlace() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost || len(c.used) > 0
}

// sleep pauses, unless ctx ends; its error is ctx's cause.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// beginNear counts a transfer from a place, unless the registry was asked already.
func (c *chooser) beginNear() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.far {
		return false
	}
	c.near++
	return true
}

// endNear counts it out. failed says that no place gave bytes.
func (c *chooser) endNear(failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.near--
	c.far = c.far || failed
}

// check returns an error for an answer that no place gives that works as it should.
func (c *chooser) check(stream *Stream, off int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stream.Off != off || stream.Size < 0 || c.size >= 0 && stream.Size != c.size {
		return fmt.Errorf("%w: bytes from %d of %d in place of from %d of %d", ErrSource, stream.Off, stream.Size, off, c.size)
	}
	return nil
}

func (c *chooser) sized(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size = size
}

func (c *chooser) note(p Place, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[p.Name], c.size = p, size
}

// fetched reports whether the registry was asked, or no place gave a byte: no place is
// known to have the blob.
func (c *chooser) fetched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.far || len(c.used) == 0
}

// wrong notes that the bytes were wrong, or of another length than the source says:
// what the places said is not believed the next time.
func (c *chooser) wrong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.used {
		p.Wrong()
	}
	if len(c.used) > 0 {
		c.fills.NoteWrong(c.want.Digest)
	}
}

// releasing has release called once, when the body is closed.
func releasing(stream *Stream, release func()) *Stream {
	stream.release = sync.OnceFunc(release)
	stream.Body = closer{stream.Body, stream.release}
	return stream
}

// closer is a stream's body whose closing also calls end.
type closer struct {
	io.ReadCloser
	end func()
}

func (c closer) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
