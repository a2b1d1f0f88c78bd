package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
	"hubcap/proxy"
	"hubcap/proxy/access"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/bypass"
	"hubcap/proxy/config"
	"hubcap/proxy/freshness"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/pull"
	"hubcap/proxy/setup"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/network"
)

// openStore opens the data directory and settles the sizes.
func (s *Server) openStore() (err error) {
	if s.store, err = blobs.Open(s.config.DataDir); err != nil {
		return refusedDir(s.config.DataDir, err)
	}
	s.onClose("data directory", s.store.Close)
	s.settings = defaultSettings()
	if s.settings.Disk, err = sizeDisk(&s.config, s.store, s.log); err != nil {
		return refusedDir(s.config.DataDir, err)
	}
	s.settings.Process = sizeProcess(poolsOf(s.config), s.log)
	if s.o.Adjust != nil {
		s.o.Adjust(&s.settings)
	}
	return nil
}

func (s *Server) openIndex() (err error) {
	if err := cache.MakeRoom(s.store, s.settings.Reserve, s.log); err != nil {
		s.log.Warn("hubcap starts without an index on disk", "err", err)
	}
	s.index, err = index.Open(index.Options{
		Dir: s.store.Dir(), Room: s.store.Room, Reserve: s.settings.Reserve,
		Interval: s.settings.SnapshotInterval, Log: s.log,
	})
	if err != nil {
		return refusedDir(s.config.DataDir, err)
	}
	s.onClose("index", s.index.Close)
	return nil
}

// openUpstreams builds the clients of the configured upstreams. It connects to
// none.
func (s *Server) openUpstreams() (err error) {
	s.upstreams, err = upstreams(s.config, s.o, s.settings.TryAgain, s.Metrics.Upstreams, &s.offline)
	return err
}

// Upstreams returns the clients of a configuration's upstreams, as a Server asks
// them.
func Upstreams(c config.Config, o Options) (*upstream.Set, error) {
	var offline upstream.Offline
	offline.Set(bool(c.Offline))
	return upstreams(c, o.withDefaults(), defaultSettings().TryAgain, metrics.New().Upstreams, &offline)
}

func upstreams(c config.Config, o Options, tryAgain time.Duration, m *metrics.Upstreams, offline *upstream.Offline) (*upstream.Set, error) {
	entries := slices.Clone(c.Upstreams)
	for i := range entries {
		e := &entries[i]
		e.Proxy, e.UserAgent, e.TryAgain = o.Proxy, "hubcap/"+o.Version, tryAgain
		e.Offline, e.MaxManifest, e.Now, e.Metrics, e.Log = offline, cache.MaxManifest, o.Now, m, o.Log
	}
	set, err := upstream.NewSet(entries, c.DefaultUpstream)
	if err != nil {
		return nil, fmt.Errorf("HUBCAP_DEFAULT_UPSTREAM=%s: %w", c.DefaultUpstream, err)
	}
	return set, nil
}

// openCache opens the cache, and what the index knows of tags.
func (s *Server) openCache() error {
	c, set := s.config, s.settings
	s.Ledger = eviction.NewLedger(eviction.LedgerOptions{
		Limit: set.Cache, SmallSize: smallSize, SmallShare: smallShare,
		High: set.HighWatermark, Low: set.LowWatermark, Now: s.o.Now, Metrics: s.Metrics.Space,
	})
	s.Ledger.AwaitPins() // openPins tells it
	capacity := advisor.NewCapacity(s.o.Now)
	s.keep("capacity", capacity)
	var guest func(digest.Digest) bool
	if s.Site.HasBoxes() {
		guest = func(d digest.Digest) bool { return !s.Site.Owns(d) }
	}
	var kept func(digest.Digest)
	if s.Tier != nil {
		kept = s.Tier.Keep
	}
	s.Cache = cache.New(cache.Options{
		Guest: guest, Kept: kept,
		Store: s.store, Index: s.index, Ledger: s.Ledger, Capacity: capacity,
		MinFree: set.MinFree, MaxBlob: set.MaxBlob, Reserve: set.Reserve, Ballast: set.Ballast, Growth: set.Growth,
		ManifestMemory: set.Manifests, FlushInterval: set.FlushInterval, SweepInterval: set.SweepInterval, StartWithin: set.StartWithin,
		MaxFills: set.Fills, Connections: int(c.FillConnections), MaxConnections: set.Transfers, MaxPerHost: maxPerHost,
		Bandwidth: int64(c.Bandwidth), Patience: set.SlowWriter, VerifyInterval: time.Duration(c.VerifyInterval),
		Now: s.o.Now, Metrics: s.Metrics, Log: s.log,
	})
	s.tags = freshness.New(freshness.Options{
		Store: s.Cache, Index: s.index, Rules: c.TagRules, Cooldowns: c.TagCooldown, KeepDeleted: bool(c.KeepDeleted),
		Changed: func(t freshness.TagStatus) { s.events.Publish(api.EventTag, t) },
		Metrics: s.Metrics.Fills, Now: s.o.Now, After: s.o.After, Log: s.log,
	})
	// The cache is closed first: the tags learn of what it still writes.
	s.closers = append(s.closers, s.tags.Close, s.Cache.Close)
	s.untilClose(s.boundGarbage)
	if c.Prefetch != config.PrefetchOff {
		s.startPrefetch()
	}
	return nil
}

// rootCAs returns what has the authorities that are trusted besides registries: the
// system's and those of HUBCAP_CA_FILE.
func (s *Server) rootCAs() func() *x509.CertPool {
	o := network.Options{Now: s.o.Now, Log: s.log}
	if s.config.CAFile.CAFile != nil {
		o.CAFiles = []*network.CAFile{s.config.CAFile.CAFile}
	}
	return network.New(o).RootCAs
}

// startBypass watches until Close who goes around the box.
func (s *Server) startBypass() {
	s.bypass = bypass.New(bypass.Options{Now: s.o.Now, Metrics: s.Metrics, Log: s.log})
	s.untilClose(s.bypass.Run)
}

// untilClose runs a function until Close ends its context.
func (s *Server) untilClose(run func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	s.closers = append(s.closers, func() { cancel(); running.Wait() })
}

// startPrefetch prefetches until Close.
func (s *Server) startPrefetch() {
	s.prefetch = prefetch.New(prefetch.Options{
		Store: s.Cache, AtATime: prefetchAtATime, Now: s.o.Now, Metrics: s.Metrics.Prefetch, Log: s.log,
	})
	s.untilClose(s.prefetch.Run)
}

// openHandler builds what answers clients, and logs what it was built from.
func (s *Server) openHandler() error {
	c, now := s.config, s.o.Now
	allowed := config.Prefixes(access.DefaultClients())
	if len(c.AllowClients) > 0 {
		allowed = c.AllowClients
	}
	s.links = access.NewLinks(s.index, s.Metrics.Fills, s.log)
	s.puller = pull.New(pull.Options{
		Cache: s.Cache, Tags: s.tags, Prefetch: s.prefetch, Site: s.Site, Tier: s.Tier,
		Identities: access.NewIdentities(now), Grants: access.NewGrants(now), Links: s.links,
		Patience: time.Duration(c.RateLimitWait), StalePublic: c.StaleIfError.Public(), StalePrivate: c.StaleIfError.Private(), Now: now,
	})
	s.startImages()
	s.startDrill()
	s.gateway, s.refusals = access.NewGateway(s.log), access.NewRefusals(now, s.log)
	s.startBypass()
	s.Handler = proxy.New(proxy.Options{
		Upstreams: s.upstreams, Pull: s.puller, Cache: s.Cache,
		Clients: access.NewClients(allowed, c.TrustedProxies), Gateway: s.gateway, Refusals: s.refusals,
		RateLimitWait: time.Duration(c.RateLimitWait), Site: s.Site,
		Setup:    setup.New(setup.Options{Mirrors: mirrorsOf(c), Pulls: s.bypass, Now: now}),
		NotFound: access.NewNotFoundLimit(access.NotFoundOptions{PerMinute: int(c.NotFoundLimit), Now: now, Log: s.log}),
		Bypass:   s.bypass, Recent: s.requests, Images: s.Images, Drill: s.drill,
		MinRate: int64(c.MinClientRate), Now: now, Sleep: s.o.Sleep, Metrics: s.Metrics.Requests, Log: s.log,
	})
	s.log.Info("hubcap starts", "version", s.o.Version, "registries", hosts(c), "default", c.DefaultUpstream)
	s.log.Info("cache", "dir", absolute(c.DataDir), "size", gib(s.settings.Cache), "largest_blob", gib(s.settings.MaxBlob), "kept_free", gib(s.settings.MinFree))
	s.log.Info("clients that may pull", "ranges", allowed.String())
	return nil
}

func hosts(c config.Config) string {
	var all []string
	for _, u := range c.Upstreams {
		all = append(all, u.Host)
	}
	return strings.Join(all, ",")
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func gib(bytes int64) string { return fmt.Sprintf("%.1fGiB", float64(bytes)/(1<<30)) }
