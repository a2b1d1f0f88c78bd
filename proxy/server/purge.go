package server

import (
	"hubcap/cache/index"
	"hubcap/proxy/purge"
)

// openPurge builds what removes images at an operator's wish.
func (s *Server) openPurge() error {
	s.Purge = purge.New(purge.Options{Cache: s.Cache, Tags: s.tags, Links: s.links, Pinned: s.Ledger.Pinned, Kept: s.kept})
	return nil
}

// kept returns why a tag is not purged unless that is forced.
func (s *Server) kept(name index.Name) string {
	if s.tags.IsFrozen(name) {
		return "it is frozen"
	}
	for pin, err := range s.index.Pins() {
		if err == nil && pin.PinName == (index.PinName{Registry: name.Registry, Repository: name.Repository, Reference: name.Name}) {
			return "it is pinned"
		}
	}
	return ""
}
