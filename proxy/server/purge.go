package server

import "hubcap/proxy/purge"

// openPurge builds what removes images at an operator's wish.
func (s *Server) openPurge() error {
	s.Purge = purge.New(purge.Options{Cache: s.Cache, Tags: s.tags, Links: s.links, Pinned: s.Ledger.Pinned})
	return nil
}
