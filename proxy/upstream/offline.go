package upstream

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// errOffline says that hubcap sends no requests at present.
var errOffline = errors.New("not sent: hubcap is offline, by HUBCAP_OFFLINE or by an operator")

// Offline is a switch that keeps requests from being sent. Answers that have begun
// go on to their end. The zero value and nil send requests. Its methods may be
// called at any time from any goroutine.
type Offline struct{ on atomic.Bool }

// Set turns the switch on or off.
func (o *Offline) Set(on bool) { o.on.Store(on) }

// On reports whether no requests are sent.
func (o *Offline) On() bool { return o != nil && o.on.Load() }

// gate is the network behind the switch.
type gate struct {
	offline *Offline
	base    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if g.offline.On() {
		return nil, errOffline
	}
	return g.base.RoundTrip(req)
}
