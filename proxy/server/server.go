// Package server is the assembled program: every room built from one
// configuration, sized for the machine, listening at its ports and drained at
// the end. It is the only package that knows all the others. It knows neither
// arguments nor signals.
//
// Files: server.go (start and end), assemble.go (the rooms, bottom up), settings.go
// (what is not for the operator to choose), process.go, garbage.go and disk.go (sizes
// that follow from the machine), ports.go (listening), operator.go and socket.go (the
// admin port), problems.go (what is wrong), history.go (the box's own series), drain.go
// (the last requests), systemd.go (what systemd is told), check.go (what would stop the
// start), healthcheck.go, setup.go (what clients are told), warm.go (images that no
// client asked for), pins.go (images that are kept), images.go (those that clients
// pull), bundle.go (over an air gap), site.go (other boxes), tier.go (the S3 store),
// outage.go (what would survive an outage, offline), version.go.
package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/metrics/history"
	"hubcap/proxy"
	"hubcap/proxy/access"
	"hubcap/proxy/admin"
	"hubcap/proxy/bundle"
	"hubcap/proxy/bypass"
	"hubcap/proxy/config"
	"hubcap/proxy/freshness"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/port"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/problems"
	"hubcap/proxy/pull"
	"hubcap/proxy/purge"
	"hubcap/proxy/requests"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
	"hubcap/proxy/warm"
)

// Options is what a Server needs besides its configuration. Log is required.
type Options struct {
	Log     *slog.Logger
	LogLost func() uint64 // lines of the log that were dropped so far; nil if that is not counted
	Version string        // for the log and for the User-Agent header
	Environ []string      // as of os.Environ, for the admin port's view of the configuration

	// What tests replace.
	Now    func() time.Time                                 // time.Now when nil
	After  func(time.Duration) <-chan time.Time             // time.After when nil
	Sleep  func(ctx context.Context, d time.Duration) error // proxy.Sleep when nil
	Proxy  func(*http.Request) (*url.URL, error)            // http.ProxyFromEnvironment when nil
	Adjust func(*Settings)                                  // changes the settings before they are used
}

// withDefaults fills in what is nil.
func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Sleep == nil {
		o.Sleep = proxy.Sleep
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return o
}

// Server is a whole hubcap.
type Server struct {
	Handler *proxy.Handler // of the mirror ports
	Cache   *cache.Cache
	Ledger  *eviction.Ledger
	Metrics *metrics.Metrics
	Images  *images.Images
	Offline *outage.Offline
	Outage  *outage.Readiness // which images would survive an outage
	Warm    *warm.Warmer      // fetches images that no client asked for
	Jobs    *jobs.List        // what an operator began
	Purge   *purge.Purger
	Bundle  *bundle.Bundler
	Pins    *pins.Pins // images that are kept
	Site    *site.Site // the other boxes; nil for a box of its own
	Tier    *tier.Tier // the S3 store; nil for none

	config   config.Config
	o        Options
	log      *slog.Logger
	settings Settings
	started  time.Time

	offline   upstream.Offline // set by Offline
	upstreams *upstream.Set
	store     *blobs.Store
	index     *index.Index
	tags      *freshness.Resolver
	prefetch  *prefetch.Prefetcher // nil if there is none

	gateway  *access.Gateway
	bypass   *bypass.Monitor
	links    *access.Links
	requests *requests.Log
	puller   *pull.Puller
	drill    *outage.Drill
	refusals *access.Refusals
	limits   *port.Limits // of clients; nil before Serve, as ports
	ports    port.Group

	events      *admin.Events
	box         *admin.Box
	adminPort   http.Handler // set by Serve, as adminSocket
	adminSocket http.Handler

	problems *problems.List
	history  *history.History
	notifier *problems.Notifier // nil if there is none

	closers []func() // of what has been opened, in that order
}

// New opens the data directory and builds everything above it. It listens at no
// port yet. The caller calls Close at the end.
func New(c config.Config, o Options) (*Server, error) {
	s := &Server{config: c, o: o.withDefaults(), log: o.Log, Metrics: metrics.New(), requests: new(requests.Log)}
	s.started = s.o.Now()
	s.events = admin.NewEvents(s.started.UnixMilli())
	s.exportProcess()
	if o.LogLost != nil {
		s.Metrics.Log(o.LogLost)
	}
	for _, warning := range c.Warnings {
		s.log.Warn(warning)
	}
	for _, open := range []func() error{
		s.openStore, s.openIndex, s.openOffline, s.openUpstreams, s.openSite, s.openTier, s.openCache, s.startTier,
		s.openTags,
		s.openHandler,
		s.openWarm, s.openBundle,
		s.openPins,
		s.openPurge,
		s.openOutage,
		s.openProblems, s.openHistory,
		s.openAdmin,
	} {
		if err := open(); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Close ends what New has begun and writes out what is not on disk yet. It is
// called once, after Serve has returned.
func (s *Server) Close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// onClose has Close call end, before what was opened earlier is closed. A
// failure is logged.
func (s *Server) onClose(what string, end func() error) {
	s.closers = append(s.closers, func() {
		if err := end(); err != nil {
			s.log.Warn("closing failed", "what", what, "err", err)
		}
	})
}
