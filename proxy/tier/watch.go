package tier

import (
	"context"
	"sync/atomic"
	"time"
)

// watch ends a request whose server is silent for too long.
type watch struct {
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer
	heard  atomic.Bool // of the server: an answer began, or a body is being sent
}

// newWatch returns a watch over a request under ctx, whose server has to be heard of
// within d.
func newWatch(ctx context.Context, d time.Duration) *watch {
	w := new(watch)
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(d, w.expired)
	return w
}

func (w *watch) expired() {
	if w.heard.Load() {
		w.cancel(errStalled)
	} else {
		w.cancel(errSilent)
	}
}

// within has the server, of which something was heard, heard of within d from now on.
func (w *watch) within(d time.Duration) {
	w.heard.Store(true)
	w.timer.Reset(d)
}

// pause has nobody wait for the server.
func (w *watch) pause() { w.timer.Stop() }

// cause returns why the request failed with err; nil for nil.
func (w *watch) cause(err error) error {
	if cause := context.Cause(w.ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// end ends the request.
func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}
