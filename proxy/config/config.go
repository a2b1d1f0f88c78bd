// Package config is every variable that an operator can set: its name, its
// default, its check. It alone reads the environment. What it returns is
// valid, and is not looked at twice.
//
// Files: config.go (the variables), types.go (sizes, durations, …), ports.go (further
// mirror ports), freshness.go (tags, and registries in trouble), upstreams.go (the
// registries), numbers.go (what there are several of), credentials.go (what hubcap
// shows registries), visibility.go (for whom their content is), describe.go (hubcap
// config), site.go (other boxes), tier.go (the S3 store), client.go (what the commands
// need).
package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
)

// Prefix is what every variable's name begins with.
const Prefix = "HUBCAP_"

// Config is what an operator has set, checked.
type Config struct {
	variables

	Mirrors   []Mirror         // the further ones
	Upstreams []upstream.Entry // presets and the operator's own, merged by host
	Warnings  []string         // what is strange and yet allowed

	minFreeSet bool // by the operator
}

// variables are the plain ones. The tag `means` is the text of
// deploy/docs/configuration.md; what stands in 'single quotes' is set as code.
type variables struct {
	Listen          Address   `env:"LISTEN" envDefault:":5000" means:"address of the mirror port, which clients pull from; it never answers 401"`
	AuthListen      Address   `env:"AUTH_LISTEN" means:"address of the login port (TLS), where clients use their own accounts for upstreams with VISIBILITY=passthrough; off when empty"`
	AdminListen     Address   `env:"ADMIN_LISTEN" envDefault:"127.0.0.1:5001" means:"address of the admin port: metrics and health without a token, the rest with a token from the data directory: admin-token for everything, view-token to look"`
	AdminSocket     string    `env:"ADMIN_SOCKET" means:"path of a Unix socket for hubcap's commands on this machine, which need no token there; admin.sock in the data directory when empty, none when off"`
	AdminCertFile   string    `env:"ADMIN_TLS_CERT_FILE" means:"PEM certificate of the admin port, which then speaks TLS; read again when it changes"`
	AdminKeyFile    string    `env:"ADMIN_TLS_KEY_FILE" means:"PEM key of that certificate"`
	AdminNames      Names     `env:"ADMIN_NAMES" means:"host names under which the admin port may be called, separated by commas; IP addresses, localhost and the machine's own name always work"`
	Boxes           Boxes     `env:"BOXES" means:"admin ports of other hubcaps, to which the page and hubcap status link: berlin=https://berlin.lan:5001,https://paris.lan:5001"`
	Pprof           Switch    `env:"PPROF" envDefault:"false" means:"true serves Go profiles below /debug/pprof/ on the admin port; they need the admin token"`
	DataDir         string    `env:"DATA_DIR" envDefault:"./data" means:"directory for blobs, partial fills and the index"`
	CacheSize       Share     `env:"CACHE_SIZE" means:"maximum size of everything in the data directory, at least 64MiB; in bytes, or as a percentage of the file system such as 60%"`
	MaxBlob         Share     `env:"MAX_BLOB" envDefault:"25%" means:"larger blobs are streamed to the client and not stored; a percentage is of the cache size"`
	MinFree         Floor     `env:"MIN_FREE" envDefault:"max(5%,2GiB)" means:"free space that hubcap leaves on the file system; a percentage is of the file system. The default is at most a quarter of it"`
	TagTTL          Duration  `env:"TAG_TTL" envDefault:"1m" means:"how long a tag is served without asking its upstream"`
	TagRules        TagRules  `env:"TAG_RULES" means:"TTL by glob of repository and tag; the first match counts: '*:latest=30s,registry.k8s.io/**=24h,*:v*=immutable'"`
	TagCooldown     Cooldowns `env:"TAG_COOLDOWN" means:"how long a tag that has moved upstream is served as before, counted from when this box first saw the new digest, by glob of repository and tag; the first match counts: 'docker.io/**=48h,*:nightly=0'. Off when empty"`
	StaleIfError    StaleFor  `env:"STALE_IF_ERROR" means:"how long cached content is served while its upstream fails, counted from the first failed check: 0 (never), unlimited, or a duration such as 24h"`
	KeepDeleted     Switch    `env:"KEEP_DELETED" envDefault:"false" means:"true keeps serving cached tags that were deleted upstream"`
	RateLimitWait   Wait      `env:"RATE_LIMIT_WAIT" envDefault:"10s" means:"how long a request for uncached content may wait after the upstream answered 429 with Retry-After; 0 answers at once"`
	Offline         Switch    `env:"OFFLINE" envDefault:"false" means:"true never asks an upstream; only cached content is served"`
	OutageDays      Days      `env:"OUTAGE_DAYS" envDefault:"30" means:"for how many days after a pull an image counts for outage readiness: whether it could be pulled again with all registries down"`
	OutageRepair    Switch    `env:"OUTAGE_REPAIR" envDefault:"false" means:"true has what such images lack fetched each night at three o'clock, local time, behind the clients; a fifth of each registry's pull limit is left to them"`
	VerifyInterval  Duration  `env:"VERIFY_INTERVAL" envDefault:"7d" means:"how long an unchanged file counts as verified before it is hashed again"`
	FillConnections Count     `env:"FILL_CONNECTIONS" envDefault:"4" means:"connections to the upstream for one large blob, 1 to 16; 1 requests the blob as a whole"`
	Prefetch        Prefetch  `env:"PREFETCH" envDefault:"on-pull" means:"on-pull: when the first layer of an image is requested, its other blobs are fetched too, with lower priority; off: only requested blobs are fetched"`
	Bandwidth       Bandwidth `env:"BANDWIDTH" means:"maximum bytes per second that all fills together receive, such as 20MB; unlimited when empty"`
	ConnectTimeout  Duration  `env:"CONNECT_TIMEOUT" envDefault:"5s" means:"maximum time to connect to an upstream, for an outgoing proxy to do so, and for the TLS handshake, each"`
	HeaderTimeout   Duration  `env:"HEADER_TIMEOUT" envDefault:"25s" means:"maximum time until an upstream's response begins"`
	StallTimeout    Duration  `env:"STALL_TIMEOUT" envDefault:"30s" means:"maximum time between two reads of an upstream's response body"`
	DrainTimeout    Duration  `env:"DRAIN_TIMEOUT" envDefault:"30s" means:"how long running responses may continue after SIGTERM"`
	DefaultUpstream string    `env:"DEFAULT_UPSTREAM" envDefault:"docker.io" means:"registry for requests that name none"`
	CAFile          CAFile    `env:"CA_FILE" means:"PEM file of additional certificate authorities, trusted besides the system's; read again when it changes"`
	TLSCertFile     string    `env:"TLS_CERT_FILE" means:"PEM certificate of the mirror ports, which then speak TLS; read again when it changes"`
	TLSKeyFile      string    `env:"TLS_KEY_FILE" means:"PEM key of that certificate"`
	AuthCertFile    string    `env:"AUTH_TLS_CERT_FILE" means:"PEM certificate of the login port; HUBCAP_TLS_CERT_FILE when empty"`
	AuthKeyFile     string    `env:"AUTH_TLS_KEY_FILE" means:"PEM key of that certificate"`
	AllowClients    Prefixes  `env:"ALLOW_CLIENTS" means:"IP ranges of clients that may pull, separated by commas"`
	TrustedProxies  Prefixes  `env:"TRUSTED_PROXIES" means:"IP ranges of reverse proxies whose X-Forwarded-For header is trusted, separated by commas; none when empty"`
	MaxConnections  Limit     `env:"MAX_CONNECTIONS" means:"maximum number of client connections that are served at a time, at least 32; further ones wait"`
	MaxPerClient    Limit     `env:"MAX_CONNECTIONS_PER_CLIENT" means:"maximum number of connections of one client address that are served at a time, at least 32 and at most half of all; further ones wait for those of the same address; no limit for HUBCAP_TRUSTED_PROXIES and the boxes of HUBCAP_SITE"`
	NotFoundLimit   Limit     `env:"NOT_FOUND_LIMIT" envDefault:"1000" means:"maximum number of upstream not-found responses per minute and client address, at least 32; beyond it, requests for uncached content get 429"`
	MinClientRate   Rate      `env:"MIN_CLIENT_RATE" envDefault:"8KiB" means:"minimum rate at which a client must read a response, in bytes per second, at least 16B; slower clients are disconnected"`
	PinsFile        string    `env:"PINS_FILE" means:"file of images to keep: a reference a line, such as 'ghcr.io/acme/app:1.4 platforms=linux/amd64,linux/arm64' (the platforms may be left out), and # before a comment; read again when it changes"`
	NotifyURL       Secret    `env:"NOTIFY_URL" means:"address to which each problem is posted as JSON, ten minutes after it begins and at its end; a secret, since it may hold a token"`
	Site            SiteBoxes `env:"SITE" means:"the mirror ports of the boxes of this site, separated by commas, the same on each of them: 'http://hubcap-0:5000,http://hubcap-1:5000'. Each blob is fetched from its registry once for all of them; a box of its own when empty"`
	SiteSelf        string    `env:"SITE_SELF" means:"which entry of HUBCAP_SITE this box is; the one with the machine's name or address when empty"`
	Sisters         SiteBoxes `env:"SISTERS" means:"the mirror ports of boxes of other sites, separated by commas: they are asked for blobs above 1 MiB that they hold, before a registry. Nobody is asked when empty"`
	SistersTimeout  Duration  `env:"SISTERS_TIMEOUT" envDefault:"300ms" means:"how long after it is connected a sister may take until its answer begins; one that takes longer is not asked for a while"`
	S3URL           Bucket    `env:"S3_URL" means:"bucket of an S3 store behind the boxes, which is asked for blobs before their registry and is given what came from one: 'https://s3.example.com:9000/bucket'; none when empty"`
	S3Region        string    `env:"S3_REGION" envDefault:"us-east-1" means:"region of the bucket"`
	S3AccessKey     Secret    `env:"S3_ACCESS_KEY" means:"access key for the bucket; with the secret key, what the AWS SDK finds (environment, files, instance) when empty"`
	S3SecretKey     Secret    `env:"S3_SECRET_KEY" means:"secret key for the bucket"`
	S3Write         Switch    `env:"S3_WRITE" envDefault:"true" means:"false only reads the bucket, for boxes whose link to it is narrow"`
	LogLevel        LogLevel  `env:"LOG_LEVEL" envDefault:"info" means:"debug, info, warn or error"`
	LogFormat       LogFormat `env:"LOG_FORMAT" envDefault:"text" means:"text, or json for log collectors"`
}

// Load reads the environment, given as os.Environ gives it. Its error is one
// line that names the variable, its value and what is allowed. With an error,
// the result holds how to log it, as far as that is known, and nothing else.
func Load(environ []string) (Config, error) {
	c, err := load(environ)
	if err != nil {
		return Config{variables: variables{LogLevel: c.LogLevel, LogFormat: c.LogFormat}}, err
	}
	return c, nil
}

func load(environ []string) (c Config, err error) {
	values := env.ToMap(environ)
	if err := parse(&c.variables, Prefix, values); err != nil {
		return c, err
	}
	if values, err = readSecretFiles(values); err != nil {
		return c, err
	}
	if err := c.setNotifyURL(values[Prefix+"NOTIFY_URL"]); err != nil {
		return c, err
	}
	c.minFreeSet = values[Prefix+"MIN_FREE"] != ""
	if err := c.checkTLS(); err != nil {
		return c, err
	}
	if c.CacheSize.set() && c.CacheSize.share == 0 && c.CacheSize.bytes < minCache { // 0% too
		return c, refused(Prefix+"CACHE_SIZE", c.CacheSize.String(), errors.New("want at least 64MiB"))
	}
	if err := c.loadUpstreams(values); err != nil {
		return c, err
	}
	if c.DefaultUpstream, err = c.defaultUpstream(Prefix+"DEFAULT_UPSTREAM", c.DefaultUpstream); err != nil {
		return c, err
	}
	if err := c.loadMirrors(values); err != nil {
		return c, err
	}
	if err := c.checkPorts(); err != nil {
		return c, err
	}
	if err := c.checkSite(); err != nil {
		return c, err
	}
	if err := c.setS3(values); err != nil {
		return c, err
	}
	if c.Offline {
		c.Warnings = append(c.Warnings, Prefix+"OFFLINE=true: no registry is asked; what is not held cannot be pulled")
	}
	c.Warnings = append(c.Warnings, unknown(values)...)
	return c, nil
}

// minCache is the smallest cache that can be asked for, in bytes.
const minCache = 64 << 20

// refused returns the error for a value that is not allowed.
func refused(name, value string, err error) error {
	return fmt.Errorf("%s=%s: %w", name, show(name, value), err)
}

// Format hides the credentials for every verb.
func (c Config) Format(f fmt.State, _ rune) {
	type plain Config // without this method
	_, _ = fmt.Fprintf(f, "%+v", plain(c))
}

// MarshalText keeps encoders from showing them.
func (c Config) MarshalText() ([]byte, error) { return fmt.Append(nil, c), nil }

// parse fills target from the variables below prefix. An empty variable
// counts as not set.
func parse(target any, prefix string, values map[string]string) error {
	set := maps.Clone(values)
	maps.DeleteFunc(set, func(_, value string) bool { return value == "" })
	err := env.ParseWithOptions(target, env.Options{Prefix: prefix, Environment: set})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	var one env.ParseError
	if !errors.As(all.Errors[0], &one) {
		return all.Errors[0]
	}
	name := prefix + variableOf(target, one.Name)
	return refused(name, values[name], one.Err)
}

// checkTLS finds halves of certificates, and a port that lacks one.
func (c *Config) checkTLS() error {
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		return fmt.Errorf("%sTLS_CERT_FILE and %sTLS_KEY_FILE: set both or none", Prefix, Prefix)
	}
	if (c.AuthCertFile == "") != (c.AuthKeyFile == "") {
		return fmt.Errorf("%sAUTH_TLS_CERT_FILE and %sAUTH_TLS_KEY_FILE: set both or none", Prefix, Prefix)
	}
	if (c.AdminCertFile == "") != (c.AdminKeyFile == "") {
		return fmt.Errorf("%sADMIN_TLS_CERT_FILE and %sADMIN_TLS_KEY_FILE: set both or none", Prefix, Prefix)
	}
	if c.AdminCertFile == "" && !c.AdminListen.loopback() {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%sADMIN_LISTEN=%s: tokens cross the network unencrypted; set %sADMIN_TLS_CERT_FILE and %sADMIN_TLS_KEY_FILE", Prefix, c.AdminListen, Prefix, Prefix))
	}
	if c.AuthCertFile == "" {
		c.AuthCertFile, c.AuthKeyFile = c.TLSCertFile, c.TLSKeyFile
	}
	if c.AuthListen != "" && c.AuthCertFile == "" {
		return refused(Prefix+"AUTH_LISTEN", string(c.AuthListen), fmt.Errorf("speaks TLS only: set %sAUTH_TLS_CERT_FILE and %sAUTH_TLS_KEY_FILE", Prefix, Prefix))
	}
	return nil
}

// SocketPath returns where the Unix socket of the admin port is; empty for none.
func (c *Config) SocketPath() string {
	switch c.AdminSocket {
	case "":
		return filepath.Join(c.DataDir, "admin.sock")
	case "off":
		return ""
	}
	return c.AdminSocket
}

// setNotifyURL takes the address, which may come from a file, and checks it.
func (c *Config) setNotifyURL(value string) error {
	if value == "" {
		return nil
	}
	at, err := url.Parse(value)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return refused(Prefix+"NOTIFY_URL", value, errors.New("want an address such as https://hooks.example.com/path"))
	}
	c.NotifyURL = Secret(value)
	return nil
}

// readSecretFiles puts the content of each <secret>_FILE in place of the
// secret.
func readSecretFiles(values map[string]string) (map[string]string, error) {
	values = maps.Clone(values)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		plain, isFile := strings.CutSuffix(name, "_FILE")
		if !isFile || !strings.HasPrefix(name, Prefix) || !isSecret(plain) || values[name] == "" {
			continue
		}
		if values[plain] != "" {
			return nil, refused(name, values[name], fmt.Errorf("%s is set too; set one of them", plain))
		}
		content, err := os.ReadFile(values[name])
		if err != nil {
			return nil, refused(name, values[name], fmt.Errorf("cannot be read: %w", errors.Unwrap(err)))
		}
		values[plain] = credentials.Trim(string(content))
	}
	return values, nil
}

const masked = credentials.Masked

func isSecret(name string) bool {
	return name == Prefix+"NOTIFY_URL" || name == Prefix+"TOKEN" || strings.HasSuffix(name, "_PASSWORD") || strings.HasSuffix(name, "_USERNAME") ||
		name == Prefix+"S3_ACCESS_KEY" || name == Prefix+"S3_SECRET_KEY" ||
		strings.HasPrefix(name, upstreamPrefix) && strings.HasSuffix(name, "_TOKEN")
}

// CacheSizeSet reports whether the operator set a cache size.
func (c *Config) CacheSizeSet() bool { return c.CacheSize.set() }

// CacheBytes settles the cache size on a file system of total bytes with free
// ones. Where none is set it is 80 % of the file system, but at most half of
// what is free.
func (c *Config) CacheBytes(total, free int64) int64 {
	if c.CacheSize.set() {
		return c.CacheSize.of(total)
	}
	return min(total/5*4, free/2)
}

// MaxBlobBytes settles the largest blob that is kept.
func (c *Config) MaxBlobBytes(cache int64) int64 { return min(c.MaxBlob.of(cache), cache) }

// GrownCacheBytes is the cache size, where none is set, on a file system that
// has grown to total bytes since the size was settled on before bytes. Half of
// what was added is the cache's, as of what was free in the beginning.
func GrownCacheBytes(size, before, total int64) int64 {
	return max(size, min(total/5*4, size+(total-before)/2))
}

// smallShare is the share of a file system that stays free where the default
// floor would leave the cache nothing, or little: below 8 GiB.
const smallShare = 4

// MinFreeBytes settles the free-space floor of a file system of total bytes.
// small reports whether it is less than the default because the file system is
// small; a floor that was set is kept to.
func (c *Config) MinFreeBytes(total int64) (floor int64, small bool) {
	floor = c.MinFree.of(total)
	if !c.minFreeSet && floor > total/smallShare {
		return total / smallShare, true
	}
	return floor, false
}

// Address is where to listen: host:port, the host may be missing.
type Address string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err == nil && host != "localhost" && !strings.HasPrefix(string(text), ":") {
		_, err = netip.ParseAddr(host)
	}
	if n, convErr := strconv.ParseUint(port, 10, 16); err != nil || convErr != nil || n > 65535 {
		return errors.New("want an address to listen on, such as :5000 or 127.0.0.1:5001")
	}
	*a = Address(text)
	return nil
}

// loopback reports whether only this machine reaches the address.
func (a Address) loopback() bool {
	host, _, _ := net.SplitHostPort(string(a)) // UnmarshalText has checked it
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// LogLevel is a level of log/slog.
type LogLevel slog.Level

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LogLevel) UnmarshalText(text []byte) error {
	var name string
	if err := oneOf(&name, bytes.ToLower(text), "debug", "info", "warn", "error"); err != nil {
		return err
	}
	return (*slog.Level)(l).UnmarshalText(text)
}

// Count is a small number of connections.
type Count int

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 16 {
		return errors.New("want a number from 1 to 16")
	}
	*c = Count(n)
	return nil
}

// Limit is the most that there may be of something; 0 where none is set.
type Limit int

// MinLimit is the least: one client opens about so many connections for one
// image.
const MinLimit = 32

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Limit) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || n < MinLimit {
		return errors.New("want a whole number from 32 up")
	}
	*l = Limit(n)
	return nil
}

// LogFormat is text or json.
type LogFormat string

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *LogFormat) UnmarshalText(text []byte) error {
	return oneOf(f, text, "text", "json")
}

// Prefetch says which blobs are fetched before a client asks: "off" or "on-pull".
type Prefetch string

// The ways to prefetch.
const (
	PrefetchOff    Prefetch = "off"
	PrefetchOnPull Prefetch = "on-pull"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefetch) UnmarshalText(text []byte) error {
	return oneOf(p, text, PrefetchOff, PrefetchOnPull)
}

// timeouts copies what is the same for every client of a registry.
func (v *variables) timeouts(o *upstream.Options) {
	o.ConnectTimeout = time.Duration(v.ConnectTimeout)
	o.HeaderTimeout = time.Duration(v.HeaderTimeout)
	o.StallTimeout = time.Duration(v.StallTimeout)
}
