// Command hubcap is a caching pull-through proxy for Docker Hub and every
// other OCI registry.
//
//	hubcap              serves
//	hubcap config       prints every variable, its default and its value, and
//	                    fails where the start would
//	hubcap version      prints the version
//	hubcap healthcheck  exits 0 when the hubcap of this configuration is ready
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy"
	"hubcap/proxy/access"
	"hubcap/proxy/admin"
	"hubcap/proxy/config"
	"hubcap/proxy/freshness"
	"hubcap/proxy/logging"
	"hubcap/proxy/port"
	"hubcap/proxy/prefetch"
	"hubcap/proxy/pull"
	"hubcap/proxy/quota"
	"hubcap/proxy/upstream"
)

// What is not for the operator to choose.
const (
	smallSize     = 1 << 20 // bytes; objects below it are manifests, configs and small layers
	smallShare    = 0.05    // of the cache, kept for them: 5 % gains most at little cost to the layers
	highWatermark = 0.98    // of the cache: evicting ahead of need begins here,
	lowWatermark  = 0.95    // and ends here
	flushInterval = 15 * time.Second
	sweepInterval = time.Second
	startWithin   = 500 * time.Millisecond // then the counting of files goes on behind

	snapshotInterval = 5 * time.Minute

	patience    = 3 * time.Second // with one connection of a download while its others bring bytes
	headTimeout = 5 * time.Second // for a client's request to arrive
	idleTimeout = time.Minute     // for the next one
	maxHeader   = 16 << 10        // bytes
	maxPerHost  = 24              // connections of the fills from one registry
	maxAdmin    = 64              // connections at the operator's port

	tryAgain = 10 * time.Second // an upstream's host that fails

	prefetchAtATime = 4 // blobs, each over one connection

	logBuffer   = 1 << 20         // bytes of lines that wait while nobody reads the log: some thousands
	flushWithin = 2 * time.Second // for the last lines to be written at the end
)

func main() {
	err := run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil && !errors.As(err, new(logged)) {
		fmt.Fprintln(os.Stderr, "hubcap:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// logged is an error that the log has told of.
type logged struct{ error }

func (l logged) Unwrap() error { return l.error }

func run(args, environ []string, stdout, stderr io.Writer) error {
	command := strings.Join(args, " ")
	switch command {
	case "version":
		_, err := fmt.Fprintln(stdout, version())
		return err
	case "config":
		if err := config.Print(stdout, environ); err != nil {
			return err
		}
	case "", "healthcheck":
	default:
		return fmt.Errorf("unknown command %q; there are: (none, to serve), config, version, healthcheck", command)
	}
	c, err := config.Load(environ)
	if command == "" {
		return serveLogged(c, err, stderr)
	}
	switch {
	case err != nil:
		return err
	case command == "config":
		return judge(c)
	default:
		return healthcheck(c)
	}
}

// serveLogged serves until a signal ends it. Whatever it has to say is in the
// log: also failure, why there is no configuration, if it is not nil.
func serveLogged(c config.Config, failure error, stderr io.Writer) error {
	// A log whose reader has gone must not end the process. SIGPIPE is caught
	// and not ignored, as programs that hubcap starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logs := newLog(c, stderr)
	defer logs.Close(flushWithin)
	if stderr == io.Writer(os.Stderr) {
		release, err := logs.Capture()
		if err != nil {
			logs.Warn("what libraries write to standard error is not in the log's format", "err", err)
		} else {
			defer release(flushWithin)
		}
	}
	if failure == nil {
		failure = judge(c)
	}
	if failure == nil {
		failure = serve(ctx, c, logs)
	}
	if failure != nil {
		logs.Error("hubcap ends", "err", failure)
		return logged{failure}
	}
	return nil
}

// judge returns the error for which the start would stop, as far as that can be
// told beside a hubcap that runs with the same configuration.
func judge(c config.Config) error {
	if err := blobs.Check(c.DataDir); err != nil {
		return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", c.DataDir, err)
	}
	check := func(variable string, at config.Address, cert, key string) error {
		if err := port.Check(string(at), cert, key); err != nil {
			return fmt.Errorf("HUBCAP_%s=%s: %w", variable, at, err)
		}
		return nil
	}
	err := check("LISTEN", c.Listen, c.TLSCertFile, c.TLSKeyFile)
	for n, m := range c.Mirrors {
		err = cmp.Or(err, check(fmt.Sprintf("LISTEN_%d_ADDRESS", n), m.Address, c.TLSCertFile, c.TLSKeyFile))
	}
	if c.AuthListen != "" {
		err = cmp.Or(err, check("AUTH_LISTEN", c.AuthListen, c.AuthCertFile, c.AuthKeyFile))
	}
	return cmp.Or(err, check("ADMIN_LISTEN", c.AdminListen, "", ""))
}

func newLog(c config.Config, w io.Writer) *logging.Log {
	return logging.New(logging.Options{Out: w, JSON: c.LogFormat == "json", Level: slog.Level(c.LogLevel), Buffer: logBuffer})
}

// serve runs until ctx ends.
func serve(ctx context.Context, c config.Config, logs *logging.Log) error {
	log := logs.Logger
	// Credentials and others' content have no place in a core file. Where that
	// cannot be set, whoever confines the process has seen to it.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	for _, warning := range c.Warnings {
		log.Warn(warning)
	}
	store, err := blobs.Open(c.DataDir)
	if err != nil {
		return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", c.DataDir, err)
	}
	defer store.Close()
	room, err := budget(c, store, log)
	if err != nil {
		return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", c.DataDir, err)
	}
	if err := cache.MakeRoom(store, room.Reserve, log); err != nil {
		log.Warn("hubcap starts without an index on disk", "err", err)
	}
	idx, err := index.Open(index.Options{
		Dir: store.Dir(), Room: store.Room, Reserve: room.Reserve, Interval: snapshotInterval, Log: log,
	})
	if err != nil {
		return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", c.DataDir, err)
	}
	defer closing(log, "index", idx.Close)

	all := metrics.New()
	all.Log(logs.Lost)
	process := quota.Settle(log)
	upstreams, err := newUpstreams(c, all, log)
	if err != nil {
		return fmt.Errorf("HUBCAP_DEFAULT_UPSTREAM=%s: %w", c.DefaultUpstream, err)
	}
	held := cache.New(cache.Options{
		Store: store, Index: idx, MinFree: room.minFree, MaxBlob: room.maxBlob,
		Reserve: room.Reserve, Ballast: room.Ballast, Growth: room.Growth,
		Ledger: eviction.NewLedger(eviction.LedgerOptions{
			Limit: room.cache, SmallSize: smallSize, SmallShare: smallShare,
			High: highWatermark, Low: lowWatermark, Now: time.Now, Metrics: all.Space,
		}),
		ManifestMemory: process.Manifests, FlushInterval: flushInterval, SweepInterval: sweepInterval, StartWithin: startWithin,
		MaxFills: process.Fills, Connections: int(c.FillConnections), MaxConnections: process.Transfers, MaxPerHost: maxPerHost,
		Bandwidth: int64(c.Bandwidth), Patience: patience,
		VerifyInterval: time.Duration(c.VerifyInterval), Now: time.Now,
		Metrics: all, Log: log,
	})

	tags := freshness.New(freshness.Options{
		Store: held, Index: idx, Rules: c.TagRules, KeepDeleted: bool(c.KeepDeleted),
		Metrics: all.Fills, Now: time.Now, After: time.After, Log: log,
	})
	defer func() {
		held.Close() // what it still writes, the tags still learn
		tags.Close()
	}()
	allowed := config.Prefixes(access.DefaultClients())
	if len(c.AllowClients) > 0 {
		allowed = c.AllowClients
	}
	ahead, stopAhead := newPrefetcher(c, held, all, log)
	defer stopAhead()
	puller := pull.New(pull.Options{
		Cache: held, Tags: tags, Prefetch: ahead,
		Identities: access.NewIdentities(time.Now), Grants: access.NewGrants(time.Now), Links: access.NewLinks(idx, all.Fills, log),
		Patience: time.Duration(c.RateLimitWait), StalePublic: c.StaleIfError.Public(), StalePrivate: c.StaleIfError.Private(), Now: time.Now,
	})
	handler := proxy.New(proxy.Options{
		Upstreams: upstreams, Pull: puller, Cache: held,
		Clients: access.NewClients(allowed, c.TrustedProxies), Gateway: access.NewGateway(log),
		RateLimitWait: time.Duration(c.RateLimitWait),
		Misses:        quota.NewMisses(quota.MissesOptions{PerMinute: int(c.MaxMisses), Now: time.Now, Log: log}),
		MinRate:       int64(c.MinClientRate), Now: time.Now, Sleep: proxy.Sleep, Metrics: all.Requests, Log: log,
	})
	log.Info("hubcap starts", "version", version(), "registries", hosts(c), "default", c.DefaultUpstream)
	log.Info("cache", "dir", absolute(c.DataDir), "size", gib(room.cache), "largest_blob", gib(room.maxBlob), "kept_free", gib(room.minFree))
	log.Info("clients that may pull", "ranges", allowed.String())
	mirrors, err := newMirrors(c, upstreams, handler)
	if err != nil {
		return err
	}
	return listen(ctx, c, process, handler, mirrors, newAdmin(c, store, handler, all, log), all, log)
}

// newPrefetcher returns a prefetcher at work, nil when none is wanted, and
// what ends it.
func newPrefetcher(c config.Config, held *cache.Cache, all *metrics.Metrics, log *slog.Logger) (p *prefetch.Prefetcher, stop func()) {
	if c.Prefetch == config.PrefetchOff {
		return nil, func() {}
	}
	p = prefetch.New(prefetch.Options{Store: held, Workers: prefetchAtATime, Now: time.Now, Metrics: all.Prefetch, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	return p, func() { cancel(); running.Wait() }
}

// newMirrors are the handlers of the further mirror ports.
func newMirrors(c config.Config, upstreams *upstream.Set, handler *proxy.Handler) ([]http.Handler, error) {
	var all []http.Handler
	for n, m := range c.Mirrors {
		def, ok := upstreams.Find(m.Upstream)
		if !ok {
			return nil, fmt.Errorf("HUBCAP_LISTEN_%d_UPSTREAM=%s: is not configured", n, m.Upstream)
		}
		all = append(all, handler.For(def))
	}
	return all, nil
}

// ports are where hubcap is reached: auth is nil where nobody logs in.
type ports struct {
	mirror, auth, admin *port.Port
	further             []*port.Port // mirror ports with another default registry
}

// pulls are the ports that clients pull from.
func (p ports) pulls() port.Group { return there(append([]*port.Port{p.mirror, p.auth}, p.further...)) }

// all are pulls and the operator's port.
func (p ports) all() port.Group { return there(append(p.pulls(), p.admin)) }

// there leaves out the ports that are not.
func there(some []*port.Port) port.Group {
	return slices.DeleteFunc(some, func(p *port.Port) bool { return p == nil })
}

// addresses are where hubcap listens.
func addresses(c config.Config) []config.Address {
	all := []config.Address{c.Listen, c.AdminListen}
	if c.AuthListen != "" {
		all = append(all, c.AuthListen)
	}
	for _, m := range c.Mirrors {
		all = append(all, m.Address)
	}
	return all
}

// open takes all ports, or none.
func open(c config.Config, process quota.Process, handler *proxy.Handler, mirrors []http.Handler, operator http.Handler, all *metrics.Metrics, log *slog.Logger) (p ports, err error) {
	defer func() {
		if err != nil {
			p.all().Close()
		}
	}()
	clients := clientLimits(c, process, all, log)
	operators := port.NewLimits(port.LimitsOptions{Total: maxAdmin, PerClient: maxAdmin, Waiting: maxAdmin, Now: time.Now, Metrics: all.Ports, Log: log})
	listen := func(name, variable string, at config.Address, h http.Handler, cert, key string, l *port.Limits) (*port.Port, error) {
		one, err := port.Listen(port.Options{
			Name: name, Address: string(at), Handler: h, CertFile: cert, KeyFile: key,
			HeadTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeader: maxHeader, Limits: l, Now: time.Now, Metrics: all.Ports, Log: log,
		})
		if err != nil {
			err = fmt.Errorf("HUBCAP_%s=%s: %w", variable, at, err)
		}
		return one, err
	}
	if p.mirror, err = listen("mirror", "LISTEN", c.Listen, handler, c.TLSCertFile, c.TLSKeyFile, clients); err != nil {
		return p, err
	}
	for n, h := range mirrors {
		one, err := listen("mirror", fmt.Sprintf("LISTEN_%d_ADDRESS", n), c.Mirrors[n].Address, h, c.TLSCertFile, c.TLSKeyFile, clients)
		if err != nil {
			return p, err
		}
		p.further = append(p.further, one)
	}
	if c.AuthListen != "" {
		if p.auth, err = listen("auth", "AUTH_LISTEN", c.AuthListen, handler.Login(), c.AuthCertFile, c.AuthKeyFile, clients); err != nil {
			return p, err
		}
	}
	p.admin, err = listen("admin", "ADMIN_LISTEN", c.AdminListen, operator, "", "", operators)
	return p, err
}

// clientLimits are the limits of the connections of clients, at all their
// ports together. One address gets no more than half of all, or one that
// takes its time would keep everybody out.
func clientLimits(c config.Config, process quota.Process, all *metrics.Metrics, log *slog.Logger) *port.Limits {
	total := process.Connections
	if c.MaxConnections > 0 {
		total = int(c.MaxConnections)
	}
	perClient := max(total/2, config.MinLimit)
	if c.MaxPerClient > 0 {
		perClient = min(perClient, int(c.MaxPerClient))
	}
	log.Info("limits", "connections", total, "of_one_client", perClient, "waiting", process.Waiting, "descriptors", process.Descriptors, "fills", process.Fills)
	if total > process.Connections {
		log.Warn("HUBCAP_MAX_CONNECTIONS is more than file descriptors and memory are for", "connections", total, "enough_for", process.Connections)
	}
	return port.NewLimits(port.LimitsOptions{
		Total: total, PerClient: perClient, Waiting: process.Waiting, Exempt: c.TrustedProxies, Now: time.Now, Metrics: all.Ports, Log: log,
	})
}

// listen serves all ports until ctx ends, then drains.
func listen(ctx context.Context, c config.Config, process quota.Process, handler *proxy.Handler, mirrors []http.Handler, operator http.Handler, all *metrics.Metrics, log *slog.Logger) error {
	for _, at := range addresses(c) {
		port.Await(ctx, string(at), log)
	}
	if ctx.Err() != nil {
		return nil
	}
	p, err := open(c, process, handler, mirrors, operator, all, log)
	if err != nil {
		return err
	}
	mirror := p.mirror.Scheme() + "://" + reachable(p.mirror.Addr())
	ready := []any{"mirror", p.mirror.Addr().String(), "admin", p.admin.Addr().String()}
	if p.auth != nil {
		ready = append(ready, "auth", p.auth.Addr().String())
	}
	for n, one := range p.further {
		log.Info("further mirror port", "address", one.Addr().String(), "default", c.Mirrors[n].Upstream)
	}
	log.Info("ready", append(ready, "daemon.json", fmt.Sprintf(`{"registry-mirrors": [%q]}`, mirror))...)
	if err := p.all().Serve(ctx); err != nil {
		return err
	}
	return drain(c, handler, p, log)
}

// quiet is how long nobody must have asked for anything before a pull that
// was under way counts as over: its next request follows within that.
const quiet = time.Second

// drain lets running answers end, for a while. The port stays open at first:
// /readyz says there what is coming, and pulls under way get their last
// layers. In the second half of the time nothing new begins.
func drain(c config.Config, handler *proxy.Handler, p ports, log *slog.Logger) error {
	log.Info("stopping: pulls under way may end", "within", c.DrainTimeout)
	handler.Drain()
	within := time.Duration(c.DrainTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	handler.WaitQuiet(ctx, quiet, within/2)
	p.pulls().Shutdown(ctx, func() {
		log.Warn("some answers did not end in time and are cut; HUBCAP_DRAIN_TIMEOUT gives them longer", "timeout", c.DrainTimeout)
	})
	p.admin.Close()
	log.Info("stopped")
	return nil
}

// newAdmin is the operator's port: metrics, health, and what is behind the
// token.
func newAdmin(c config.Config, store *blobs.Store, health http.Handler, all *metrics.Metrics, log *slog.Logger) http.Handler {
	file := store.Dir("admin-token")
	token, exposed, err := admin.Token(file)
	if err != nil {
		log.Warn("there is no token for the admin port, and nobody gets past metrics and health", "err", err)
	}
	if exposed {
		log.Warn("others can read the admin port's token; set its mode to 0600", "file", file)
	}
	names := slices.Clone(c.AdminNames)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	return admin.New(admin.Options{
		Metrics: all.Handler(), Health: health, Token: token, Names: names, Pprof: bool(c.Pprof), Log: log,
		Config: func(w io.Writer) error { return config.Print(w, os.Environ()) },
	})
}

func newUpstreams(c config.Config, all *metrics.Metrics, log *slog.Logger) (*upstream.Set, error) {
	entries := c.Upstreams
	for i := range entries {
		entries[i].Proxy = http.ProxyFromEnvironment
		entries[i].UserAgent = "hubcap/" + version()
		entries[i].MaxManifest = cache.MaxManifest
		entries[i].TryAgain = tryAgain
		entries[i].Now = time.Now
		entries[i].Metrics = all.Upstreams
		entries[i].Log = log
	}
	return upstream.NewSet(entries, c.DefaultUpstream)
}

// limits are the sizes that the configuration comes to on this file system,
// in bytes.
type limits struct {
	cache, maxBlob, minFree int64
	quota.Margins
}

// budget settles the limits.
func budget(c config.Config, store *blobs.Store, log *slog.Logger) (limits, error) {
	space, err := store.Space()
	if err != nil {
		return limits{}, fmt.Errorf("its file system's size is not to be read: %w", err)
	}
	size := c.CacheBytes(space.Total, space.Free)
	if !c.CacheSizeSet() {
		size = quota.CacheSize(store.Dir("cache-size"), size, space.Total, func(size, before int64) int64 {
			return config.GrownCacheBytes(size, before, space.Total)
		}, log)
	}
	minFree, small := c.MinFreeBytes(space.Total)
	if small {
		log.Info("the file system is small: less of it is kept free than the default of HUBCAP_MIN_FREE",
			"file_system", gib(space.Total), "kept_free", gib(minFree), "default", c.MinFree)
	}
	return limits{
		cache: size, maxBlob: c.MaxBlobBytes(size), minFree: minFree,
		Margins: quota.MarginsOf(size, space.Total),
	}, nil
}

// healthcheck asks the hubcap that runs under the same configuration.
func healthcheck(c config.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	host, number, err := net.SplitHostPort(string(c.Listen))
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http"
	if c.TLSCertFile != "" {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, number)+"/readyz", nil)
	if err != nil {
		return err
	}
	// No proxy; and who answers on this host's own port is not in question,
	// whatever name its certificate has.
	own := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	resp, err := (&http.Client{Transport: own}).Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", resp.StatusCode)
	}
	return nil
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

func hosts(c config.Config) string {
	var all []string
	for _, u := range c.Upstreams {
		all = append(all, u.Host)
	}
	return strings.Join(all, ",")
}

// reachable is an address that other hosts could use, as far as this one can
// tell.
func reachable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	return net.JoinHostPort(host, port)
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func gib(bytes int64) string { return fmt.Sprintf("%.1fGiB", float64(bytes)/(1<<30)) }

func closing(log *slog.Logger, what string, end func() error) {
	if err := end(); err != nil {
		log.Warn("closing failed", "what", what, "err", err)
	}
}
