package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// halting is a source whose connections stop in their middle, without an
// error, until they are closed: those of the openings that halt names.
type halting struct {
	*origin
	halt func(off int64) (after int64, yes bool)
	// If set, the others give no more than this before one is stuck: a
	// connection counts as stalled only if others receive bytes after that.
	before int64

	once sync.Once
	one  chan struct{} // closed when one is stuck, or given up before it is
	mu   sync.Mutex
	offs []int64 // of the openings
	now  atomic.Int64
	most atomic.Int64 // connections at a time
}

func (h *halting) Open(ctx context.Context, off, n int64) (*Stream, error) {
	s, err := h.origin.Open(ctx, off, n)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offs = append(h.offs, off)
	h.most.Store(max(h.most.Load(), h.now.Add(1)))
	c := &conn{Reader: s.Body, ctx: ctx, closed: make(chan struct{}), done: func() { h.now.Add(-1) }}
	if after, yes := h.halt(off); yes {
		stuck := func() { h.once.Do(func() { close(h.one) }) }
		c.Reader = io.MultiReader(io.LimitReader(s.Body, after), c.stuck(stuck))
		c.done = func() { h.now.Add(-1); stuck() } // a slow one may be taken over before
	} else if h.before > 0 {
		wait := readerFunc(func([]byte) (int, error) {
			select {
			case <-h.one:
			case <-ctx.Done():
			}
			return 0, io.EOF
		})
		c.Reader = io.MultiReader(io.LimitReader(s.Body, h.before), wait, s.Body)
	}
	s.Body = c
	return s, nil
}

// conn is one connection of a halting source.
type conn struct {
	io.Reader
	ctx    context.Context
	closed chan struct{}
	once   sync.Once
	done   func()
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed); c.done() })
	return nil
}

// stuck reads nothing until the connection is closed or its context ends.
func (c *conn) stuck(begins func()) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		begins()
		select {
		case <-c.closed:
		case <-c.ctx.Done():
		}
		return 0, errors.New("closed")
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// If one connection stalls while the others receive bytes, another one fetches the
// rest of its piece, whichever connection it is.
func TestStalledPieceIsTakenOver(t *testing.T) {
	const size = 33 * mib
	body, d := randomContent(310, size)
	for _, tc := range []struct {
		name string
		at   int64 // the piece that stalls
	}{
		{"the first", 0},
		{"one in the middle", 2 * maxPiece},
		{"the last", 3 * maxPiece}, // 9 MiB long
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{change: func(o *Options) { o.Patience = 20 * time.Millisecond }})
			var halted atomic.Bool
			src := &halting{origin: &origin{body: body}, before: mib, one: make(chan struct{})}
			src.halt = func(off int64) (int64, bool) {
				return 300_000, off == tc.at && halted.CompareAndSwap(false, true)
			}
			b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: size})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			var c client
			if err := b.Send(t.Context(), &c, 0, -1); err != nil || c.Len() != size {
				t.Fatalf("%d bytes, %v", c.Len(), err)
			}
			r.checkLedger()
			if !halted.Load() {
				t.Fatal("no connection stalled")
			}
			if n, _ := r.o.Metrics.Value("hubcap_fills_taken_over_total"); n < 1 {
				t.Errorf("%v pieces counted as taken over", n)
			}
			if n := src.now.Load(); n != 0 {
				t.Errorf("%d connections left open", n)
			}
		})
	}
}

func TestFetch(t *testing.T) {
	const size = 40 * mib
	body, d := randomContent(311, size)
	never := func(int64) (int64, bool) { return 0, false }
	t.Run("no client requests it", func(t *testing.T) {
		r := newRig(t, rigOptions{})
		src := &halting{origin: &origin{body: body}, one: make(chan struct{}), halt: never}
		if fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: size}); fetched != size || err != nil {
			t.Fatalf("fetched %v, %v", fetched, err)
		}
		if n := src.most.Load(); n != 1 {
			t.Errorf("%d connections at a time, want 1", n)
		}
		if n := src.opens.Load(); n != 1 {
			t.Errorf("%d requests, want one for the whole blob", n)
		}
		if from := r.mustGet(d, src, body); from != Held {
			t.Errorf("origin %d", from)
		}
		if fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: size}); fetched >= 0 || err != nil {
			t.Errorf("stored already: fetched %v, %v", fetched, err)
		}
		r.checkLedger()
	})
	t.Run("a client requests it half-way", func(t *testing.T) {
		r := newRig(t, rigOptions{change: func(o *Options) { o.Patience = 20 * time.Millisecond }})
		var halted atomic.Bool
		src := &halting{origin: &origin{body: body}, one: make(chan struct{}), halt: func(int64) (int64, bool) { return mib, halted.CompareAndSwap(false, true) }}
		result := make(chan int64)
		go func() {
			fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: size})
			if err != nil {
				t.Error(err)
			}
			result <- fetched
		}()
		<-src.one                                            // a connection that is not yet stuck when the others end is not taken over
		if from := r.mustGet(d, src, body); from != Joined { // more connections bring what the first one does not
			t.Errorf("origin %d", from)
		}
		if <-result >= 0 {
			t.Error("Fetch claims a fill that a client has joined")
		}
		if n := src.most.Load(); n < 2 {
			t.Errorf("%d connections at a time after a client has joined", n)
		}
		r.checkLedger()
	})
	t.Run("the source fails", func(t *testing.T) {
		r := newRig(t, rigOptions{})
		src := &origin{body: body, script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, permanent{ErrSource} }}
		if fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: size}); fetched >= 0 || !errors.Is(err, ErrSource) {
			t.Errorf("fetched %v, %v", fetched, err)
		}
		r.checkLedger()
	})
	t.Run("too large to keep", func(t *testing.T) {
		r := newRig(t, rigOptions{maxBlob: mib})
		src := &origin{body: body}
		if fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: size}); fetched >= 0 || err != nil || src.opens.Load() != 0 {
			t.Errorf("fetched %v, %v, %d openings", fetched, err, src.opens.Load())
		}
		if fetched, err := r.Fetch(t.Context(), Want{Digest: d, Source: src, Size: -1}); fetched >= 0 || err != nil {
			t.Errorf("unknown size: fetched %v, %v", fetched, err)
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		r := newRig(t, rigOptions{})
		ctx, leave := context.WithCancel(t.Context())
		src := &halting{origin: &origin{body: body}, one: make(chan struct{}), halt: func(int64) (int64, bool) { leave(); return 0, true }}
		if _, err := r.Fetch(ctx, Want{Digest: d, Source: src, Size: size}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		r.stop()
	})
}
