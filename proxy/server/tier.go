package server

import (
	"context"

	"hubcap/metrics"
	"hubcap/proxy/tier"
)

// openTier builds what asks the S3 store. It connects to nothing.
func (s *Server) openTier() error {
	c := &s.config
	if c.S3URL.URL == nil {
		return nil
	}
	s.Tier = tier.New(tier.Options{
		URL: c.S3URL.URL, Region: c.S3Region, AccessKey: string(c.S3AccessKey), SecretKey: string(c.S3SecretKey), ReadOnly: !bool(c.S3Write),
		Proxy: s.o.Proxy, RootCAs: s.rootCAs(), UserAgent: "hubcap/" + s.o.Version, Now: s.o.Now, Metrics: s.Metrics.Tier, Log: s.log,
	})
	s.Metrics.Watch(func(set metrics.Set) {
		status, open := s.Tier.Status(), 0.0
		if status.Open {
			open = 1
		}
		set(metrics.TierOpen, open)
		set(metrics.TierQueue, float64(status.Queue))
		if !status.Compared.IsZero() && status.NotCompared == "" {
			set(metrics.TierMissing, float64(status.Missing))
		}
	}, metrics.TierOpen, metrics.TierQueue, metrics.TierMissing)
	return nil
}

// startTier has the store asked whether it works, and blobs written to it, until Close.
func (s *Server) startTier() error {
	if s.Tier != nil {
		s.untilClose(func(ctx context.Context) { s.Tier.Run(ctx, s.Cache) })
	}
	return nil
}
