package server

import (
	"hubcap/metrics"
	"hubcap/proxy/outage"
)

// openOffline takes up whether the box asks upstreams, before anything can.
func (s *Server) openOffline() error {
	s.Offline = outage.NewOffline(outage.OfflineOptions{
		Switch: &s.offline, Index: s.index, Configured: bool(s.config.Offline), Now: s.o.Now, Log: s.log,
	})
	s.untilClose(s.Offline.Run)
	s.Metrics.Watch(func(set metrics.Set) {
		on := 0.
		if s.offline.On() {
			on = 1
		}
		set(metrics.Offline, on)
	}, metrics.Offline)
	return nil
}
