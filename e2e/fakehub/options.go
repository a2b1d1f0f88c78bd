package fakehub

import (
	"net"
	"time"
)

// Names are the host names under which one listener plays all three roles.
type Names struct {
	Registry []string // the first one is used in URLs
	Token    string
	CDN      string
}

// DockerHub returns the names of the real Docker Hub.
func DockerHub() Names {
	return Names{
		Registry: []string{"registry-1.docker.io", "index.docker.io"},
		Token:    "auth.docker.io",
		CDN:      "production.cloudflare.docker.com",
	}
}

// Options configure a Hub. The zero value is a Docker Hub on plain http
// with three listeners, public repositories and no limits: registry and token
// service on 127.0.0.1, the CDN on 127.0.0.2, because clients keep their token
// on a redirect to another port of one host.
// All but the first group can be changed while it serves, with Hub.Set.
type Options struct {
	// TLS serves https with a certificate of its own CA, see Hub.CAPEM.
	TLS bool
	// HTTP2 offers h2 beside HTTP/1.1; only with TLS.
	HTTP2 bool
	// Names, when Registry is not empty, selects one listener for all roles,
	// distinguished by host name. Empty Token and CDN mean Docker Hub's names.
	Names Names
	// Addr is where the one listener of Names listens; default 127.0.0.1:0.
	Addr string
	// Listen replaces net.Listen, for instance to listen in a network
	// namespace. It is called with "tcp" once for each listener.
	Listen func(network, addr string) (net.Listener, error)

	// Anonymous makes a registry that wants no token at all.
	Anonymous bool
	// DirectBlobs serves blobs from the registry, without a redirect.
	DirectBlobs bool
	// NoReferrers answers the referrers API with 404.
	NoReferrers bool
	// PageSize is how many tags or referrers are listed at once; 0 means all.
	PageSize int
	// HideUnknown makes an unknown repository look like a private one: tokens
	// for it have no access and the registry answers 401, as the real Docker
	// Hub does. Otherwise it is 404 NAME_UNKNOWN.
	HideUnknown bool

	// Users are the passwords of those who may ask for tokens, by user name.
	// Replace the map instead of changing it.
	Users map[string]string
	// OpaqueTokens makes tokens random strings instead of JWTs.
	OpaqueTokens bool
	// TokenTTL is the lifetime of tokens, at least 1s; default 300s.
	TokenTTL time.Duration
	// BlobURLTTL is the lifetime of signed blob URLs; default 20m.
	BlobURLTTL time.Duration
	// Clock is the clock of tokens, signed URLs and the rate limit;
	// default time.Now.
	Clock func() time.Time

	// RateLimit is how many manifest GETs a source address has in six hours
	// when it shows no user's token; 0 means no limit.
	RateLimit int
	// UserRateLimit is the same for each user; 0 means no limit.
	UserRateLimit int
	// RetryAfter is sent with a 429 of the rate limit, in whole seconds; 0
	// sends none, as Docker Hub does.
	RetryAfter time.Duration

	// Latency passes before the headers of every answer.
	Latency time.Duration
	// Distant makes connections behave as those over a long way do, where Latency is
	// the round trip: the first answer of each waits for one more, in which the
	// connection is made, and the body of a blob begins with a window of ten packets,
	// which doubles with each round trip (RFC 6928).
	Distant bool
	// ConnBandwidth caps the blob bytes a second of one TCP connection;
	// 0 means no cap.
	ConnBandwidth int64
	// Bandwidth caps the blob bytes a second of all connections together;
	// 0 means no cap.
	Bandwidth int64
	// WriteSize is the most bytes of a blob that are sent at once under a cap; 0 leaves
	// that to the cap. Small ones arrive as packets of a network do.
	WriteSize int64
}

// withDefaults fills in what was left at zero.
func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = 300 * time.Second
	}
	if o.BlobURLTTL == 0 {
		o.BlobURLTTL = 20 * time.Minute
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Names.Token == "" {
		o.Names.Token = DockerHub().Token
	}
	if o.Names.CDN == "" {
		o.Names.CDN = DockerHub().CDN
	}
	return o
}

// named reports whether one listener plays all roles.
func (o *Options) named() bool { return len(o.Names.Registry) > 0 }
