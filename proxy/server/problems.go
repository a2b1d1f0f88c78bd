package server

import (
	"context"
	"os"
	"sync"
	"time"

	"hubcap/proxy/problems"
)

// openProblems makes the list of what is wrong, and what notifies of it.
func (s *Server) openProblems() error {
	o := problems.Options{Facts: s.facts(), Every: s.settings.ProblemInterval, Metrics: s.Metrics, Log: s.log}
	if s.config.NotifyURL != "" {
		box, _ := os.Hostname() // empty is as good as unknown
		s.notifier = problems.NewNotifier(problems.NotifierOptions{
			URL: string(s.config.NotifyURL), Box: box, Proxy: s.o.Proxy, RootCAs: s.rootCAs(),
			Now: s.o.Now, After: s.o.After, Log: s.log,
		})
		o.Notify = s.notifier.Notify
	}
	s.problems = problems.New(o)
	return nil
}

// watchProblems looks for problems until stop is called.
func (s *Server) watchProblems() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.problems.Run(ctx) })
	if s.notifier != nil {
		running.Go(func() { s.notifier.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

// facts returns what reads the rooms' states. It is not called concurrently.
func (s *Server) facts() func() problems.Facts {
	var lost uint64
	var lostAt time.Time
	return func() problems.Facts {
		f := problems.Facts{
			Now: s.o.Now(), Started: s.started, VerifyInterval: time.Duration(s.config.VerifyInterval), MinFree: s.settings.MinFree,
			Cache: s.Cache.Status(), Ledger: s.Ledger.Status(), Upstreams: s.upstreams.Status(), Tags: s.tags.Status(),
			Limits: s.limits.Status(), Refusals: s.refusals.Status(), Clients: s.bypass.Clients(), Pins: s.Pins.Overview(), Pinned: s.Pins.List(),
			Outage: s.Outage.Status(), Offline: s.Offline.Status(), Boxes: s.Site.Status(),
		}
		f.Space, _ = s.store.Space() // zero where it cannot be read
		f.Gateway, _ = s.gateway.Suspect()
		for _, p := range s.ports {
			f.Ports = append(f.Ports, p.Status())
		}
		if s.Tier != nil {
			status := s.Tier.Status()
			f.Tier = &status
		}
		if s.o.LogLost != nil {
			if now := s.o.LogLost(); now != lost {
				lost, lostAt = now, f.Now
			}
		}
		f.LogLost = lostAt
		return f
	}
}
