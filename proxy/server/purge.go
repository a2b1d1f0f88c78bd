package server

import (
	"hubcap/cache/index"
	"hubcap/proxy/purge"
	"hubcap/proxy/reference"
)

// openPurge builds what removes images at an operator's wish.
func (s *Server) openPurge() error {
	s.Purge = purge.New(purge.Options{Cache: s.Cache, Tags: s.tags, Links: s.links, Pinned: s.Ledger.Pinned, Kept: s.kept, Forgotten: s.forgotten})
	return nil
}

// kept returns why a tag is not purged unless that is forced.
func (s *Server) kept(name index.Name) string {
	if s.tags.IsFrozen(name) {
		return "it is frozen"
	}
	if s.Pins.Pinned(refOf(name)) {
		return "it is pinned"
	}
	return ""
}

// forgotten has what was purged leave the list of images too.
func (s *Server) forgotten(names []index.Name) {
	for _, name := range names {
		if name.Kind == index.KindTag {
			s.Images.Forget(refOf(name))
		}
	}
}

func refOf(name index.Name) reference.Reference {
	return reference.Reference{Registry: name.Registry, Repository: name.Repository, Tag: name.Name}
}
