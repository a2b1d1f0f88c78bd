package server

import (
	"fmt"
	"io"
	"net"
	"strings"

	"hubcap/proxy/config"
	"hubcap/proxy/setup"
	"hubcap/proxy/upstream"
)

// PrintSetup writes the configuration of the client that args begins with.
func PrintSetup(w io.Writer, environ, args []string) error {
	c, err := config.Load(environ)
	if err != nil {
		return err
	}
	client, form, _ := strings.Cut(strings.Join(args, " "), " ")
	text, err := Setup(c, client, form)
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	_, err = io.WriteString(w, text)
	return err
}

// Setup returns the text by which a client is configured for the hubcap of a
// configuration, as GET /setup at its mirror port has it. form is one of
// setup's.
func Setup(c config.Config, client, form string) (string, error) {
	if self, err := selfOf(&c); err == nil && self >= 0 {
		c.SiteSelf = c.Site[self].String()
	}
	address := reachable(string(c.Listen))
	if host, number, err := net.SplitHostPort(address); err == nil {
		address = net.JoinHostPort(setup.CertifiedName(c.TLSCertFile, host), number)
	}
	box := mirrorsOf(c).Box(address, c.TLSCertFile != "", c.DefaultUpstream)
	return box.Text(client, form)
}

// mirrorsOf returns what clients are told of the mirror ports. Registries of
// which a mirror port shows nothing are left out.
func mirrorsOf(c config.Config) setup.Mirrors {
	m := setup.Mirrors{CertFile: c.TLSCertFile, CAFile: c.CAFile.String(), SiteDefault: c.DefaultUpstream}
	for i, u := range c.Site {
		if i != c.Self() {
			m.Others = append(m.Others, u)
		}
	}
	for _, u := range c.Upstreams {
		if u.Visibility != upstream.Passthrough {
			m.Registries = append(m.Registries, u.Host)
		}
	}
	for _, l := range listeners(c) {
		def := l.upstream
		if def == "" {
			def = c.DefaultUpstream
		}
		if l.name != "mirror" || def != upstream.DockerHub {
			continue
		}
		if _, number, err := net.SplitHostPort(string(l.address)); err == nil && number != "0" {
			m.HubPort = number
		}
		break
	}
	return m
}
