package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/network"
)

// registry is one HUBCAP_UPSTREAM_<n>_….
type registry struct {
	Host         string     `env:"HOST" means:"name of the registry; '*.example.com' matches every name with exactly one more label"`
	URL          URL        `env:"URL" means:"address of the registry; plain http:// is used only if it is set here"`
	Username     Secret     `env:"USERNAME" means:"user name of the box's account; for public repositories it only raises the rate limit"`
	Password     Secret     `env:"PASSWORD" means:"password or access token of that user"`
	Token        Secret     `env:"TOKEN" means:"token without a user name, such as an ACR refresh token or an identity token"`
	Credentials  Kind       `env:"CREDENTIALS" means:"external source of credentials: docker-config, ecr or google"`
	Repositories Globs      `env:"REPOSITORIES" means:"globs of the repositories that these credentials are used for; when empty, all that no other entry of the same host names"`
	Visibility   Visibility `env:"VISIBILITY" envDefault:"public" means:"public: what an anonymous client could pull; shared: also SHARED_REPOSITORIES, for every client; passthrough: what the client's own token may pull, on the login port only"`
	Shared       Globs      `env:"SHARED_REPOSITORIES" means:"globs of private repositories that every client may pull with the box's credentials"`
	Allow        Globs      `env:"ALLOW" means:"globs of the repositories that may be pulled; all when empty"`
	Deny         Globs      `env:"DENY" means:"globs of repositories that may not be pulled, even if ALLOW matches them"`
	TokenHosts   []string   `env:"TOKEN_HOSTS" means:"additional hosts that may receive the credentials, such as a token service; with the port unless it is the default one"`
	PrivateCIDRs Prefixes   `env:"PRIVATE_CIDRS" means:"private IP ranges in which the registry, its token hosts and its redirect targets may lie"`
	CAFile       CAFile     `env:"CA_FILE" means:"PEM file of additional certificate authorities for this registry; read again when it changes"`
	TagTTL       Duration   `env:"TAG_TTL" means:"how long a tag of this registry is served without asking"`
}

// URL is where a registry is.
type URL struct{ *url.URL }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *URL) UnmarshalText(text []byte) error {
	parsed, err := url.Parse(string(text))
	if err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" ||
		parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return errors.New("want an address such as https://registry.example.com, without user, query or fragment")
	}
	u.URL = parsed
	return nil
}

const upstreamPrefix = Prefix + "UPSTREAM_"

// registryPrefix is what the variables of the n-th registry begin with.
func registryPrefix(n int) string { return numberedPrefix(upstreamPrefix, n) }

// loadUpstreams merges the presets with the operator's registries by host.
func (c *Config) loadUpstreams(values map[string]string) error {
	byHost := make(map[string]upstream.Entry)
	for _, p := range upstream.Presets() {
		e, err := c.preset(p)
		if err != nil {
			return err
		}
		byHost[p.Host] = e
	}
	own, err := ownRegistries(values)
	if err != nil {
		return err
	}
	for _, o := range own {
		e, known := byHost[o.host]
		if !known {
			e = c.entry(o.host)
		}
		if byHost[o.host], err = c.apply(e, o); err != nil {
			return err
		}
	}
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		c.Upstreams = append(c.Upstreams, byHost[host])
	}
	return nil
}

// entry is a registry that nothing is known of but its host.
func (c *Config) entry(host string) upstream.Entry {
	e := upstream.Entry{Host: host, TagTTL: time.Duration(c.TagTTL)}
	e.Label = host
	e.URL = &url.URL{Scheme: "https", Host: host}
	e.CAFiles = caFiles(c.CAFile)
	c.timeouts(&e.Options)
	return e
}

func (c *Config) preset(p upstream.Preset) (upstream.Entry, error) {
	e := c.entry(p.Host)
	if p.URL != "" {
		at, err := url.Parse(p.URL)
		if err != nil {
			return e, err
		}
		e.URL = at
	}
	for _, host := range p.TokenHosts {
		at, err := upstream.TokenHost(host, "https")
		if err != nil {
			return e, err
		}
		e.TokenHosts = append(e.TokenHosts, at)
	}
	return e, nil
}

// apply puts what the operator has set over what was known.
func (c *Config) apply(e upstream.Entry, o ownRegistry) (upstream.Entry, error) {
	r, n := o.registry, o.accounts[0].number
	if r.URL.URL != nil {
		if strings.HasPrefix(e.Host, "*") {
			return e, refused(registryPrefix(n)+"URL", r.URL.String(), errors.New("a pattern of hosts has no one address"))
		}
		e.URL = r.URL.URL
	}
	if err := o.applyAccounts(&e); err != nil {
		return e, err
	}
	if len(r.TokenHosts) > 0 {
		e.TokenHosts = nil
	}
	for _, host := range r.TokenHosts {
		at, err := upstream.TokenHost(strings.TrimSpace(host), e.URL.Scheme)
		if err != nil {
			name := registryPrefix(n) + "TOKEN_HOSTS"
			return e, refused(name, strings.Join(r.TokenHosts, ","), fmt.Errorf("%q is no host or host:port", show(name, host)))
		}
		e.TokenHosts = append(e.TokenHosts, at)
	}
	e.PrivateCIDRs = append([]netip.Prefix(nil), r.PrivateCIDRs...)
	if r.TagTTL > 0 {
		e.TagTTL = time.Duration(r.TagTTL)
	}
	e.CAFiles = caFiles(c.CAFile, r.CAFile)
	if err := c.applyRules(&e, r, n); err != nil {
		return e, err
	}
	if e.HasLogin() && e.URL.Scheme == "http" {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%sURL=%s: the credentials go over the network in clear", registryPrefix(n), e.URL))
	}
	return e, nil
}

// caFiles are the files that are set.
func caFiles(files ...CAFile) (all []*network.CAFile) {
	for _, f := range files {
		if f.CAFile != nil {
			all = append(all, f.CAFile)
		}
	}
	return all
}

// defaultUpstream is the one spelling of a registry that answers for requests
// that name none; the error is of one that is not configured.
func (c *Config) defaultUpstream(variable, value string) (string, error) {
	host, err := checkHost(value)
	if err != nil {
		return "", refused(variable, value, err)
	}
	_, domain, _ := strings.Cut(host, ".")
	if strings.HasPrefix(host, "*") || !slices.ContainsFunc(c.Upstreams, func(e upstream.Entry) bool { return e.Host == host || e.Host == "*."+domain }) {
		return "", refused(variable, value, fmt.Errorf("want a well-known registry, such as docker.io, or one that %s<n>_HOST names", upstreamPrefix))
	}
	return host, nil
}

// checkHost checks a registry's name and gives the one spelling of it that
// requests are looked up by.
func checkHost(host string) (string, error) {
	host = strings.ToLower(host)
	if host == "" {
		return "", errors.New("want the registry's name, such as registry.example.com")
	}
	name, port, withPort := strings.Cut(strings.TrimPrefix(host, "*."), ":")
	if name == "" || strings.ContainsFunc(name+port, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	}) {
		return "", errors.New("want a host, such as registry.example.com, registry.example.com:8443 or *.example.com")
	}
	if n, err := strconv.ParseUint(port, 10, 16); withPort && (err != nil || n == 0) {
		return "", errors.New("want a port between 1 and 65535")
	}
	return upstream.Canonical(host), nil
}
