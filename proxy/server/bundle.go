package server

import "hubcap/proxy/bundle"

// openBundle builds what exports and imports images.
func (s *Server) openBundle() error {
	s.Bundle = bundle.New(bundle.Options{Cache: s.Cache, Warm: s.Warm})
	return nil
}
