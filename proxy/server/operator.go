package server

import (
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"

	"hubcap/proxy/admin"
	"hubcap/proxy/config"
)

// adminHandlers answer at the admin port and at its socket.
func (s *Server) adminHandlers(l listener) (port, socket http.Handler) {
	names := slices.Clone(s.config.AdminNames)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	return admin.New(admin.Options{
		Metrics: s.Metrics.Handler(), Health: s.Handler, Token: s.token("admin-token"), ViewToken: s.token("view-token"),
		Address: l.scheme() + "://" + reachable(string(l.address)), Names: names, Pprof: bool(s.config.Pprof), Log: s.log,
		Box:    s.box,
		Config: func(w io.Writer) error { return config.Print(w, s.o.Environ) },
	})
}

// token reads a token's file, which is made if there is none. The token is empty
// if that fails.
func (s *Server) token(name string) string {
	file := s.store.Dir(name)
	token, exposed, err := admin.Token(file)
	if err != nil {
		s.log.Warn("a token of the admin port cannot be read or made, and opens nothing", "file", file, "err", err)
	}
	if exposed {
		s.log.Warn("others can read a token of the admin port; set its mode to 0600", "file", file)
	}
	return token
}

// openAdmin builds what the API tells of, and watches it until Close.
func (s *Server) openAdmin() error {
	name, _ := os.Hostname() // empty is as good as unknown
	s.box = &admin.Box{
		Name: name, Version: s.o.Version, Since: s.started, Offline: s.offline.On, Now: s.o.Now,
		Events: s.events, Tags: s.tags, Warm: s.Warm, Pins: s.Pins, Purge: s.Purge, Jobs: s.Jobs,
		Cache: s.Cache, Ledger: s.Ledger, Upstreams: s.upstreams, Clients: s.bypass, Requests: s.requests, Problems: s.problems, History: s.history,
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
