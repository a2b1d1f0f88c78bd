package server

import (
	"time"

	"hubcap/metrics"
	"hubcap/proxy/outage"
)

// startDrill counts until Close which pulls would have survived an outage.
func (s *Server) startDrill() {
	s.drill = outage.NewDrill(s.o.Now, s.Metrics.Outage)
	s.untilClose(s.drill.Run)
}

// openOutage looks until Close which images would survive an outage, and repairs
// the others.
func (s *Server) openOutage() error {
	s.Outage = outage.New(outage.Options{
		Images: s.Images, Fetcher: s.Warm, Jobs: s.Jobs, Days: int(s.config.OutageDays), Nightly: bool(s.config.OutageRepair),
		Known: func() bool { return !s.Cache.Status().Walking }, Now: s.o.Now, After: time.After, Log: s.log,
	})
	s.untilClose(s.Outage.Run)
	s.Metrics.Watch(s.Outage.Export, metrics.OutageImages, metrics.OutageMissing, metrics.OutageChecked)
	return nil
}

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
