package server

import (
	"hubcap/proxy/admin"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
	"hubcap/proxy/warm"
)

// The bounds of the list of jobs.
const (
	jobsAtATime = 2
	jobsKept    = 100  // that are over
	jobsWaiting = 1000 // for their turn
)

// openWarm builds the list of jobs, and what fetches images that no client asked
// for.
func (s *Server) openWarm() (err error) {
	s.Jobs = jobs.New(jobs.Options{
		Changed: func(j jobs.Job) { s.events.Publish(api.EventJob, admin.JobEvent(j)) },
		AtATime: jobsAtATime, Kept: jobsKept, Waiting: jobsWaiting, Now: s.o.Now, Metrics: s.Metrics.Jobs, Log: s.log,
	})
	s.closers = append(s.closers, s.Jobs.Close)
	s.Warm, err = warm.New(warm.Options{
		Pull: s.puller, Upstreams: s.upstreams, Cache: s.Cache, Jobs: s.Jobs, Records: s.index, Fetched: s.Images.Add,
		AtATime: prefetchAtATime, Now: s.o.Now, Log: s.log,
	})
	if err != nil {
		s.log.Warn("the schedules cannot all be read", "err", err)
	}
	s.untilClose(s.Warm.Run)
	return nil
}
