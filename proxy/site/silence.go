package site

import (
	"context"
	"errors"
	"net/http/httptrace"
	"sync"
	"time"
)

// askAfter is how long a box may send nothing before it is asked whether it lives.
const askAfter = 2 * time.Second

// What a box has to bring at least, while it is waited for: with less, a lying box would
// hold a client for ever.
const (
	dripWindow = 30 * time.Second
	dripRate   = 4 << 10 // bytes a second
)

// Why a silent box is left.
var (
	errDrips = errors.New("it sends next to nothing")
	errDead  = errors.New("it sends nothing, and does not say that it lives")
	errLong  = errors.New("it lives, and has sent nothing for long")
)

// silence ends a request to a box that sends nothing and does not live. One that
// lives waits for its registry, and may take Options.Longest for it.
type silence struct {
	site   *Site
	box    *box
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	since   time.Time
	waiting bool
	waited  time.Duration // for the bytes below
	bytes   int64         // since waited was last dripWindow
}

// watchSilence returns the context of a request; nobody waits yet.
func (s *Site) watchSilence(ctx context.Context, b *box) *silence {
	w := &silence{site: s, box: b}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
	return w
}

// answersWithin returns a context for a request whose answer is to begin at most d after
// it has a connection, which has bounds of its own: a box may be far away. The caller
// calls answered when the answer has begun or is given up.
func (w *silence) answersWithin(d time.Duration) (ctx context.Context, answered func()) {
	slow := time.AfterFunc(time.Hour, func() { w.cancel(errSlow) })
	slow.Stop()
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { slow.Reset(d) }}
	return httptrace.WithClientTrace(w.ctx, trace), func() { slow.Stop() }
}

// begin notes that the next byte is waited for from now on.
func (w *silence) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting, w.since = true, time.Now()
	w.timer.Reset(askAfter)
}

// pause notes that n bytes have come, or that nobody waits.
func (w *silence) pause(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	if !w.waiting {
		return
	}
	w.waiting = false
	w.waited += time.Since(w.since)
	w.bytes += int64(n)
	if w.waited < dripWindow {
		return
	}
	if float64(w.bytes) < dripRate*w.waited.Seconds() {
		w.cancel(errDrips)
	}
	w.waited, w.bytes = 0, 0
}

// answered notes that the head has come, for which a box may wait for its registry.
func (w *silence) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = false
	w.timer.Stop()
}

// look asks a silent box whether it lives.
func (w *silence) look() {
	w.mu.Lock()
	since := w.since
	w.mu.Unlock()
	lives := w.site.alive(w.ctx, w.box)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.waiting || w.since != since: // it has sent something meanwhile
	case !lives:
		w.cancel(errDead)
	case time.Since(since) > w.site.o.Longest:
		w.cancel(errLong)
	default:
		w.timer.Reset(askAfter)
	}
}

// cause returns why a request ended with err.
func (w *silence) cause(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}

// end ends the request.
func (w *silence) end() {
	w.pause(0)
	w.cancel(nil)
}
