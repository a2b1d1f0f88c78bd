package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"hubcap/metrics/history"
)

// sampleEvery is how often the history takes the counters.
const sampleEvery = time.Minute

// openHistory takes up the box's own series where the last process left them,
// and continues them until Close.
func (s *Server) openHistory() error {
	s.history = history.New(s.readSeries, s.o.Now)
	s.keep("history", s.history)
	s.untilClose(func(ctx context.Context) {
		defer s.history.Sample()
		sample := time.NewTicker(sampleEvery)
		defer sample.Stop()
		for ctx.Err() == nil {
			select {
			case <-sample.C:
				s.history.Sample()
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// kept is what is kept over a restart in a small file of its own.
type kept interface {
	Load(r io.Reader) error // leaves it as it was after an error
	Save(w io.Writer) error
}

// keep loads what the last process has saved in a file of the data directory, and
// saves it at the interval of snapshots, which is what a crash may lose, and at Close.
func (s *Server) keep(name string, what kept) {
	file := s.store.Dir(name)
	if err := loadFile(file, what.Load); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("what earlier runs saved cannot be read, so it begins anew", "file", file, "err", err)
	}
	s.untilClose(func(ctx context.Context) {
		tick := time.NewTicker(s.settings.SnapshotInterval)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			if err := replaceFile(file, what.Save); err != nil {
				s.log.Warn("what is to survive a restart cannot be saved", "file", file, "err", err)
			}
		}
	})
}

func loadFile(file string, load func(io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return load(f)
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
	if outage := s.Images.Summary(); !outage.Checked.IsZero() {
		values["outage_images"], values["outage_ready"] = float64(outage.Images), float64(outage.Ready)
		values["outage_missing_bytes"] = float64(outage.Missing)
	}
	for _, u := range s.upstreams.Status() {
		for _, identity := range u.Identities {
			if limit := identity.Limit; limit.Remaining >= 0 && !limit.Stated.IsZero() {
				values["pulls_left/"+u.Host+"/"+identity.Identity] = float64(limit.Remaining)
			}
		}
	}
	return counters, values
}
