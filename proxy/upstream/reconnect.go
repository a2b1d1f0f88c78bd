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

// trustIdle is how long a connection may be idle and still be expected to work.
// Firewalls and NAT drop idle connections without telling either end.
const trustIdle = 5 * time.Second

// errDeadConnection says that no answer came over a connection that was idle.
var errDeadConnection = errors.New("no answer over a connection that was idle")

// reconnecting sends GET and HEAD again, once and over a new connection, if no
// answer comes over one that was used before: that shows nothing about the host.
// One that was idle for longer than trust has a shorter header time-out than a
// new one; a host that is merely slow is asked twice. All idle connections are
// closed then, since they are likely dead too.
type reconnecting struct {
	base      http.RoundTripper
	closeIdle func()
	trust     time.Duration // how long a connection may be idle and still have the time-out of a new one
	timeout   time.Duration // for headers over one that was idle for longer
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

// try sends a request, and reports whether the connection is probably dead.
func (r *reconnecting) try(req *http.Request) (resp *http.Response, err error, dead bool) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &idleWatch{trust: r.trust, timeout: r.timeout, expired: func() { cancel(errDeadConnection) }}
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
		resp.Body.Close() // the answer came too late: its context has ended
	}
	cancel(nil)
	var timeout net.Error
	dead = dead || reused && req.Context().Err() == nil && errors.As(err, &timeout) && timeout.Timeout()
	return nil, err, dead
}

// idleWatch watches whether headers come over a connection that was idle.
type idleWatch struct {
	trust   time.Duration
	timeout time.Duration
	expired func()

	mu     sync.Mutex
	timer  *time.Timer // nil where the connection is trusted
	reused bool
	over   bool
}

// begin takes the connection. It may be called late, and more than once.
func (w *idleWatch) begin(conn httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reused = conn.Reused
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if conn.Reused && conn.IdleTime >= w.trust && !w.over {
		w.timer = time.AfterFunc(w.timeout, w.expired)
	}
}

// end ends the watch. It reports whether the connection was used before.
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
