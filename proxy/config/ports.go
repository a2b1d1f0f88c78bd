package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"hubcap/proxy/upstream"
)

// Mirror is one HUBCAP_LISTEN_<n>_…: a further mirror port.
type Mirror struct {
	Address  Address `env:"ADDRESS" means:"address of a further mirror port with a default registry of its own"`
	Upstream string  `env:"UPSTREAM" means:"registry for requests on that port that name none"`
}

const mirrorPrefix = Prefix + "LISTEN_"

// loadMirrors reads the further mirror ports.
func (c *Config) loadMirrors(values map[string]string) error {
	mirrors, err := count(mirrorPrefix, values)
	if err != nil {
		return err
	}
	for n := range mirrors {
		var m Mirror
		prefix := numberedPrefix(mirrorPrefix, n)
		if err := parse(&m, prefix, values); err != nil {
			return err
		}
		if m.Address == "" {
			return refused(prefix+"ADDRESS", "", errors.New("want an address to listen on, such as :5002"))
		}
		if m.Upstream, err = c.defaultUpstream(prefix+"UPSTREAM", m.Upstream); err != nil {
			return err
		}
		if slices.ContainsFunc(c.Upstreams, func(e upstream.Entry) bool { return e.Host == m.Upstream && e.Visibility == upstream.Passthrough }) {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%sUPSTREAM=%s: what it has is 404 at this port, and shown to clients that log in at %sAUTH_LISTEN", prefix, m.Upstream, Prefix))
		}
		c.Mirrors = append(c.Mirrors, m)
	}
	return nil
}

// checkPorts finds what two listeners cannot share.
func (c *Config) checkPorts() error {
	type listener struct {
		name    string
		address Address
	}
	all := []listener{{Prefix + "LISTEN", c.Listen}, {Prefix + "ADMIN_LISTEN", c.AdminListen}, {Prefix + "AUTH_LISTEN", c.AuthListen}}
	for n, m := range c.Mirrors {
		all = append(all, listener{numberedPrefix(mirrorPrefix, n) + "ADDRESS", m.Address})
	}
	taken := make(map[Address]string)
	for _, one := range all {
		if one.address == "" || strings.HasSuffix(string(one.address), ":0") {
			continue
		}
		if other, twice := taken[one.address]; twice {
			return refused(one.name, string(one.address), fmt.Errorf("is %s's address too; the two must differ", other))
		}
		taken[one.address] = one.name
	}
	return nil
}
