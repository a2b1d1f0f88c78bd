package server

import (
	"hubcap/proxy/images"
	"hubcap/proxy/reference"
)

// startImages notes until Close what clients pull.
func (s *Server) startImages() {
	s.Images = images.New(images.Options{
		Upstreams: s.upstreams, Pull: s.puller, Cache: s.Cache, Ledger: s.Ledger, Index: s.index,
		Pinned: func(r reference.Reference) bool { return s.Pins.Pinned(r) }, // which are opened later
		Days:   int(s.config.OutageDays), Now: s.o.Now, Log: s.log,
	})
	s.untilClose(s.Images.Run)
}
