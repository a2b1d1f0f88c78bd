package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/config"
	"hubcap/proxy/site"
)

// openSite finds out which box of the site this one is. It connects to none.
func (s *Server) openSite() error {
	c := &s.config
	if len(c.Site) == 0 && len(c.Sisters) == 0 {
		return nil
	}
	self, err := selfOf(c)
	if err != nil {
		return fmt.Errorf("HUBCAP_SITE=%s: %w", c.Site, err)
	}
	if self >= 0 {
		c.SiteSelf = c.Site[self].String()
	}
	o := site.Options{
		Boxes: c.Site, Self: self, Sisters: c.Sisters, SisterTime: time.Duration(c.SistersTimeout), BoxTime: s.settings.BoxTime, UserAgent: "hubcap/" + s.o.Version,
		RootCAs: s.rootCAs(), Longest: time.Duration(c.HeaderTimeout) + time.Duration(c.StallTimeout), MaxManifest: cache.MaxManifest,
		Now: s.o.Now, Metrics: s.Metrics.Site, Log: s.log,
	}
	s.Site = site.New(o)
	s.closers = append(s.closers, s.Site.Close)
	s.untilClose(s.Site.Run)
	s.Metrics.Watch(s.Site.Export, metrics.PlaceBoxes)
	if len(c.Site) > 0 {
		s.log.Info("site", "boxes", c.Site.String(), "self", c.Site[self].String())
	}
	if len(c.Sisters) > 0 {
		s.log.Info("sisters", "boxes", c.Sisters.String())
	}
	return nil
}

// selfOf returns which box of its site this one is, negative without a site.
func selfOf(c *config.Config) (int, error) {
	if self := c.Self(); self >= 0 || len(c.Site) == 0 {
		return self, nil
	}
	return site.Self(context.Background(), c.Site)
}

// poolsOf returns the pools that a configuration needs: what waits for a place takes
// nothing from what waits for a registry, see fill.Fills.
func poolsOf(c config.Config) pools {
	p := pools{fills: 1, connections: 1}
	if len(c.Site) > 0 || len(c.Sisters) > 0 {
		p = pools{fills: 2, connections: 2}
	}
	if c.S3URL.URL != nil {
		p.connections++ // half of them for fills, the rest to write and to ask what is there
	}
	return p
}

// manyClients reports whether an address stands for many clients: a proxy, or another box
// of the site.
func (s *Server) manyClients(address netip.Addr) bool {
	return slices.ContainsFunc(s.config.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address) }) || s.Site.Has(address)
}
