package server

import "hubcap/proxy/warm"

// openWarm builds what fetches images that no client asked for.
func (s *Server) openWarm() error {
	s.Warm = warm.New(warm.Options{Pull: s.puller, Upstreams: s.upstreams, Cache: s.Cache, AtATime: prefetchAtATime, Log: s.log})
	return nil
}
