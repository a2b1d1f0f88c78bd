package server

import (
	"fmt"
	"time"

	"hubcap/proxy/access"
	"hubcap/proxy/pins"
	"hubcap/proxy/pull"
	"hubcap/proxy/warm"
)

// openPins keeps pinned images until Close. The ledger evicts nothing until it is
// known what is pinned.
func (s *Server) openPins() error {
	s.Pins = pins.New(pins.Options{
		Store: s.Cache, Ledger: s.Ledger, Index: s.index, Fetcher: s.Warm, Jobs: s.Jobs, Frozen: s.tags.Frozen, Repository: s.pinnable,
		Default: s.config.DefaultUpstream, File: s.config.PinsFile, MaxBlob: s.settings.MaxBlob,
		Every: s.settings.PinsInterval, Now: s.o.Now, After: time.After, Metrics: s.Metrics, Log: s.log,
	})
	s.untilClose(s.Pins.Run)
	select { // what does not fit is not stored until then
	case <-s.Pins.Known():
	case <-time.After(s.settings.StartWithin):
	}
	return nil
}

// errOwn says why content that each client pulls for itself cannot be pinned.
var errOwn = fmt.Errorf("%w: each client pulls it with an account of its own", pull.ErrHidden)

// pinnable returns what is known of a repository. The error says why nothing of it
// can be pinned.
func (s *Server) pinnable(registry, repository string) (pins.Repository, error) {
	up, found := s.upstreams.Find(registry)
	if !found {
		return pins.Repository{}, warm.ErrUnknownRegistry
	}
	switch view := access.ViewOf(up, repository, false); view {
	case access.Denied:
		return pins.Repository{}, pull.ErrDenied
	case access.Hidden:
		return pins.Repository{}, errOwn
	default:
		return pins.Repository{Registry: up.Host, Restricted: view.Restricted()}, nil
	}
}
