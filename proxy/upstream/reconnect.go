package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// trustIdle is how long a connection may have been idle and still be expected
// to work. Firewalls and NAT that lose what they know of a connection tell
// neither end: what is sent over it vanishes.
const trustIdle = 5 * time.Second

// errDeadConnection says that nothing came over a connection that had been idle.
var errDeadConnection = errors.New("no answer over a connection that was idle")

// reconnecting sends GET and HEAD again, once and over a new connection, when
// no answer comes over one that was used before: that says nothing of the
// host. One that was idle for longer than trustIdle has a shorter patience for
// the headers than a new one; where the host was merely slow it is asked twice.
// All idle connections are closed then, since they are likely dead as well.
type reconnecting struct {
	base      http.RoundTripper
	closeIdle func()
	trust     time.Duration // how long a connection may be idle and still have the patience of a new one
	patience  time.Duration // for headers over one that was idle for longer
}

func (r *reconnecting) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead || req.Body != nil && req.Body != http.NoBody {
		return r.base.RoundTrip(req)
	}
	resp, err, dead := r.try(req)
	if !dead {
		return resp, err
	}
	r.closeIdle()
	return r.base.RoundTrip(req)
}

// try sends a request, and reports whether the connection seems dead.
func (r *reconnecting) try(req *http.Request) (resp *http.Response, err error, dead bool) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &idleWatch{trust: r.trust, patience: r.patience, expired: func() { cancel(errDeadConnection) }}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: w.begin})
	resp, err = r.base.RoundTrip(req.WithContext(ctx))
	reused := w.end()
	dead = errors.Is(context.Cause(ctx), errDeadConnection)
	if err == nil && !dead {
		resp.Request = req
		resp.Body = &cancelling{resp.Body, cancel}
		return resp, nil, false
	}
	if err == nil {
		resp.Body.Close() // the answer came at the last moment, and its context has ended
	}
	cancel(nil)
	var timeout net.Error
	dead = dead || reused && req.Context().Err() == nil && errors.As(err, &timeout) && timeout.Timeout()
	return nil, err, dead
}

// idleWatch watches whether headers come over a connection that was idle.
type idleWatch struct {
	trust    time.Duration
	patience time.Duration
	expired  func()

	mu     sync.Mutex
	timer  *time.Timer // nil where the connection is trusted
	reused bool
	over   bool
}

// begin is told of the connection. It may be called late, and more than once.
func (w *idleWatch) begin(conn httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reused = conn.Reused
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if conn.Reused && conn.IdleTime >= w.trust && !w.over {
		w.timer = time.AfterFunc(w.patience, w.expired)
	}
}

// end says that headers have come, or none will.
func (w *idleWatch) end() (reused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	return w.reused
}

// cancelling is a body whose request's context ends when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c *cancelling) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}
