package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"hubcap/metrics/history"
)

// How often the history takes the counters, and how often it is saved: what a
// crash may lose.
const (
	sampleEvery = time.Minute
	saveEvery   = 5 * time.Minute
)

// openHistory takes up the box's own series where the last process left them,
// and continues them until Close.
func (s *Server) openHistory() error {
	s.history = history.New(s.readSeries, s.o.Now)
	file := s.store.Dir("history")
	if err := s.loadHistory(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the history of earlier runs cannot be read and begins anew", "file", file, "err", err)
	}
	s.untilClose(func(ctx context.Context) {
		sample, save := time.NewTicker(sampleEvery), time.NewTicker(saveEvery)
		defer sample.Stop()
		defer save.Stop()
		for ctx.Err() == nil {
			select {
			case <-sample.C:
				s.history.Sample()
				continue
			case <-save.C:
			case <-ctx.Done():
				s.history.Sample()
			}
			if err := replaceFile(file, s.history.Save); err != nil {
				s.log.Warn("the history cannot be saved", "file", file, "err", err)
			}
		}
	})
	return nil
}

func (s *Server) loadHistory(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.history.Load(f)
}

// readSeries is the history's Read. A limit's series is named after its upstream
// and identity.
func (s *Server) readSeries() (counters, values map[string]float64) {
	if t, ok := s.Metrics.Totals(); ok {
		counters = map[string]float64{
			"client_bytes": t.ClientBytes, "upstream_bytes": t.UpstreamBytes, "requests": t.Requests, "cached": t.Cached,
			"joined": t.Joined, "stale": t.Stale,
		}
	}
	ledger := s.Ledger.Status()
	values = map[string]float64{"cache_bytes": float64(ledger.Used()), "cache_budget_bytes": float64(ledger.Budget)}
	for _, u := range s.upstreams.Status() {
		for _, identity := range u.Identities {
			if limit := identity.Limit; limit.Remaining >= 0 && !limit.Stated.IsZero() {
				values["pulls_left/"+u.Host+"/"+identity.Identity] = float64(limit.Remaining)
			}
		}
	}
	return counters, values
}
