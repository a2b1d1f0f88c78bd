package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"

	"hubcap/proxy/advice"
	"hubcap/proxy/config"
	"hubcap/proxy/port"
)

// listener is a port that the configuration asks for.
type listener struct {
	name      string // mirror, auth or admin
	variable  string // that sets the address, without HUBCAP_
	address   config.Address
	cert, key string // files; empty for a port without TLS
	upstream  string // default registry of a further mirror port; empty for the configuration's
}

// listeners are all ports of a configuration. The mirror port is the first, the
// admin port the last.
func listeners(c config.Config) []listener {
	all := []listener{{name: "mirror", variable: "LISTEN", address: c.Listen, cert: c.TLSCertFile, key: c.TLSKeyFile}}
	for n, m := range c.Mirrors {
		all = append(all, listener{
			name: "mirror", variable: fmt.Sprintf("LISTEN_%d_ADDRESS", n), address: m.Address,
			cert: c.TLSCertFile, key: c.TLSKeyFile, upstream: m.Upstream,
		})
	}
	if c.AuthListen != "" {
		all = append(all, listener{name: "auth", variable: "AUTH_LISTEN", address: c.AuthListen, cert: c.AuthCertFile, key: c.AuthKeyFile})
	}
	return append(all, listener{
		name: "admin", variable: "ADMIN_LISTEN", address: c.AdminListen, cert: c.AdminCertFile, key: c.AdminKeyFile,
	})
}

// Listener is a port of a configuration.
type Listener struct {
	Name    string // mirror, auth or admin
	Address string
	TLS     bool
	Err     error // why it cannot be listened at; nil if it can
	Taken   bool  // another program, or a running hubcap, listens there
}

// Listeners returns the ports of a configuration, and tries each: it listens
// there for a moment.
func Listeners(c config.Config) (all []Listener) {
	for _, l := range listeners(c) {
		one := Listener{Name: l.name, Address: string(l.address), TLS: l.cert != ""}
		taken, err := net.Listen("tcp", one.Address)
		if err == nil {
			_ = taken.Close()
			err = port.Check(one.Address, l.cert, l.key)
		}
		one.Taken = errors.Is(err, syscall.EADDRINUSE)
		if err != nil {
			one.Err = l.refused(err)
		}
		all = append(all, one)
	}
	return all
}

// refused is the error of a listener that cannot be served.
func (l listener) refused(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return errors.New(advice.PortTaken(l.variable, string(l.address)))
	}
	return fmt.Errorf("HUBCAP_%s=%s: %w", l.variable, l.address, err)
}

func (l listener) scheme() string {
	if l.cert != "" {
		return "https"
	}
	return "http"
}

// Serve listens at all ports, answers until ctx ends, and drains. It waits for
// addresses that no interface has yet. The error is of a port.
func (s *Server) Serve(ctx context.Context) error {
	all := listeners(s.config)
	for _, l := range all {
		port.Await(ctx, string(l.address), s.log)
	}
	if ctx.Err() != nil {
		return nil
	}
	ports, err := s.listen(all)
	if err != nil {
		return err
	}
	s.ports = ports
	defer s.serveSocket()()
	defer s.watchProblems()()
	s.logReady(all, ports)
	stopping := s.supervise(ports[0])
	err = ports.Serve(ctx)
	stopping()
	if err != nil {
		return err
	}
	s.drain(ports)
	return nil
}

// listen takes all ports, or none.
func (s *Server) listen(all []listener) (ports port.Group, err error) {
	defer func() {
		if err != nil {
			ports.Close()
		}
	}()
	s.limits = s.clientLimits()
	s.adminPort, s.adminSocket = s.adminHandlers(all[len(all)-1])
	operator := port.NewLimits(port.LimitsOptions{
		Total: maxAdmin, PerClient: maxAdmin, Waiting: maxAdmin, Now: s.o.Now, Metrics: s.Metrics.Ports, Log: s.log,
	})
	for _, l := range all {
		limits := s.limits
		if l.name == "admin" {
			limits = operator
		}
		p, err := port.Listen(port.Options{
			Name: l.name, Address: string(l.address), Handler: s.handlerOf(l), CertFile: l.cert, KeyFile: l.key,
			HeadTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeader: maxHeader,
			Limits: limits, Now: s.o.Now, Metrics: s.Metrics.Ports, Log: s.log,
		})
		if err != nil {
			return ports, l.refused(err)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func (s *Server) handlerOf(l listener) http.Handler {
	switch {
	case l.name == "admin":
		return s.adminPort
	case l.name == "auth":
		return s.Handler.Login()
	case l.upstream == "":
		return s.Handler
	}
	def, _ := s.upstreams.Find(l.upstream) // config allows only those that are there
	return s.Handler.For(def)
}

// clientLimits bounds the connections of clients at all their ports together.
// One address gets at most half of them, so that a slow one leaves some for the
// others.
func (s *Server) clientLimits() *port.Limits {
	c, process := s.config, s.settings.Process
	total := process.Connections
	if c.MaxConnections > 0 {
		total = int(c.MaxConnections)
	}
	perClient := max(total/2, config.MinLimit)
	if c.MaxPerClient > 0 {
		perClient = min(perClient, int(c.MaxPerClient))
	}
	s.log.Info("limits", "connections", total, "of_one_client", perClient, "waiting", process.Waiting, "descriptors", process.Descriptors, "fills", process.Fills)
	if total > process.Connections {
		s.log.Warn("HUBCAP_MAX_CONNECTIONS is more than file descriptors and memory are for", "connections", total, "enough_for", process.Connections)
	}
	return port.NewLimits(port.LimitsOptions{
		Total: total, PerClient: perClient, Waiting: process.Waiting, Exempt: s.manyClients,
		Now: s.o.Now, Metrics: s.Metrics.Ports, Log: s.log,
	})
}

// logReady logs where the ports are, and what dockerd is configured with.
func (s *Server) logReady(all []listener, ports port.Group) {
	var ready []any
	for i, l := range all {
		address := ports[i].Addr().String()
		if l.upstream != "" {
			s.log.Info("further mirror port", "address", address, "default", l.upstream)
			continue
		}
		ready = append(ready, l.name, address)
	}
	mirror := all[0].scheme() + "://" + reachable(ports[0].Addr().String())
	s.log.Info("ready", append(ready, "daemon.json", fmt.Sprintf(`{"registry-mirrors": [%q]}`, mirror), "setup", mirror+"/setup")...)
}

// reachable returns an address that other hosts can probably use, for one that
// a port listens at: the host's name stands for all interfaces.
func reachable(address string) string {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	return net.JoinHostPort(host, number)
}
