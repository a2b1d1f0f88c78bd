package server

import "hubcap/proxy/images"

// startImages notes until Close what clients pull.
func (s *Server) startImages() {
	s.Images = images.New(images.Options{
		Upstreams: s.upstreams, Pull: s.puller, Cache: s.Cache, Ledger: s.Ledger, Index: s.index,
		Days: int(s.config.OutageDays), Now: s.o.Now, Log: s.log,
	})
	s.untilClose(s.Images.Run)
}
