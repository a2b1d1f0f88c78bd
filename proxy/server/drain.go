package server

import (
	"context"
	"time"

	"hubcap/proxy/port"
)

// quiet is how long there must be no request before the pulls under way count
// as complete: a pull's next request follows within that time.
const quiet = time.Second

// adminTimeout is how long running answers of the admin port may continue.
const adminTimeout = time.Second

// drain lets pulls under way end within HUBCAP_DRAIN_TIMEOUT. In the first half
// of it all ports stay open: /readyz answers 503, and clients get their last
// layers. Then only running answers go on. The admin port, which is the last,
// closes after all others.
func (s *Server) drain(ports port.Group) {
	timeout := s.config.DrainTimeout
	s.log.Info("stopping: pulls under way may end", "within", timeout)
	s.Handler.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(timeout))
	defer cancel()
	s.Handler.WaitQuiet(ctx, quiet, time.Duration(timeout)/2)
	last := len(ports) - 1
	ports[:last].Shutdown(ctx, func() {
		s.log.Warn("some answers did not end in time and are cut; HUBCAP_DRAIN_TIMEOUT gives them longer", "timeout", timeout)
	})
	s.box.Events.Close() // they would go on for ever
	soon, stop := context.WithTimeout(context.Background(), adminTimeout)
	defer stop()
	ports[last:].Shutdown(soon, func() {})
	s.log.Info("stopped")
}
