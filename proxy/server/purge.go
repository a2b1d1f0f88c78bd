package server

import (
	"hubcap/cache/index"
	"hubcap/proxy/purge"
	"hubcap/proxy/reference"
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
	ref := reference.Reference{Registry: name.Registry, Repository: name.Repository, Tag: name.Name}.String()
	for _, pin := range s.Pins.List() {
		if pin.Ref == ref {
			return "it is pinned"
		}
	}
	return ""
}
