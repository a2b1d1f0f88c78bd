package server

import (
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"hubcap/proxy/admin"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/page"
	"hubcap/proxy/config"
	"hubcap/proxy/evict"
	"hubcap/proxy/setup"
)

// adminHandlers answer at the admin port and at its socket.
func (s *Server) adminHandlers(l listener) (port, socket http.Handler) {
	names := slices.Clone(s.config.AdminNames)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	return admin.New(admin.Options{
		Metrics: s.Metrics.Handler(), Health: s.Handler,
		Token: admin.TokenFile(s.store.Dir("admin-token"), s.o.Now, s.log), ViewToken: admin.TokenFile(s.store.Dir("view-token"), s.o.Now, s.log),
		Address: l.scheme() + "://" + reachable(string(l.address)), Names: names, Pprof: bool(s.config.Pprof), Log: s.log,
		Box: s.box,
		Page: func(routes http.Handler) admin.Page {
			return page.New(page.Options{API: routes, MayAct: admin.MayAct, Setup: s.setupFor, Now: s.o.Now, Log: s.log})
		},
		Config: func(w io.Writer) error { return config.Print(w, s.o.Environ) },
	})
}

// setupFor returns what clients are told that know the box by the name or address
// of a Host header at the admin port.
func (s *Server) setupFor(host string) setup.Box {
	c := s.config
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, number, _ := net.SplitHostPort(string(c.Listen)) // checked by config
	return mirrorsOf(c).Box(net.JoinHostPort(strings.Trim(host, "[]"), number), c.TLSCertFile != "", c.DefaultUpstream)
}

// openAdmin builds what the API tells of, and watches it until Close.
func (s *Server) openAdmin() error {
	name, _ := os.Hostname() // empty is as good as unknown
	s.box = &admin.Box{
		Name: name, Version: s.o.Version, Since: s.started, Offline: s.offline.On, Now: s.o.Now,
		Events: s.events, Images: s.Images, Tags: s.tags, Warm: s.Warm, Pins: s.Pins, Purge: s.Purge, Bundle: s.Bundle, Jobs: s.Jobs,
		Evict: evict.New(evict.Options{Cache: s.Cache, Ledger: s.Ledger, Images: s.Images}),
		Cache: s.Cache, Ledger: s.Ledger, Upstreams: s.upstreams, Clients: s.bypass, Requests: s.requests, Problems: s.problems, Outage: s.Outage, Switch: s.Offline, History: s.history, Site: s.Site, Tier: s.Tier,
	}
	for _, one := range s.config.Boxes {
		s.box.Boxes = append(s.box.Boxes, api.OtherBox(one))
	}
	s.untilClose(s.box.Watch)
	return nil
}

// exportProcess exports which build this is.
func (s *Server) exportProcess() {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				revision = setting.Value
			}
		}
	}
	s.Metrics.Build(s.o.Version, revision)
}
