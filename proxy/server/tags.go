package server

import "hubcap/metrics"

// openTags exports how many tags there are, by state.
func (s *Server) openTags() error {
	s.Metrics.Watch(func(set metrics.Set) {
		n := s.tags.Counts()
		set(metrics.Tags, float64(n.Following), "following")
		set(metrics.Tags, float64(n.Frozen), "frozen")
		set(metrics.Tags, float64(n.Cooling), "cooling")
	}, metrics.Tags)
	return nil
}
