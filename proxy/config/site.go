package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// SiteBoxes are the mirror ports of a site's boxes; none for a box of its own.
type SiteBoxes []*url.URL

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *SiteBoxes) UnmarshalText(text []byte) error {
	all, err := list(text, parseBox)
	if err != nil {
		return err
	}
	for i, one := range all {
		if slices.ContainsFunc(all[:i], func(before *url.URL) bool { return *before == *one }) {
			return fmt.Errorf("%s is in the list twice", one)
		}
	}
	*b = all
	return nil
}

// String is the list as it is set.
func (b SiteBoxes) String() string {
	all := make([]string, len(b))
	for i, one := range b {
		all[i] = one.String()
	}
	return strings.Join(all, ",")
}

// parseBox reads the address of a mirror port. Its spelling is part of what decides
// who owns what, so that only one is allowed.
func parseBox(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%q is no address of a mirror port; want such as http://hubcap-0:5000,http://hubcap-1:5000", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

// checkSite checks that this box is one of its site, and that no sister is.
func (c *Config) checkSite() error {
	for _, sister := range c.Sisters {
		if slices.ContainsFunc(c.Site, func(box *url.URL) bool { return *box == *sister }) {
			return refused(Prefix+"SISTERS", sister.String(), errors.New("it is in "+Prefix+"SITE too; a sister is a box of another site"))
		}
	}
	if c.SiteSelf == "" {
		return nil
	}
	if len(c.Site) == 0 {
		return refused(Prefix+"SITE_SELF", c.SiteSelf, errors.New("want "+Prefix+"SITE to be set too"))
	}
	if c.Self() < 0 {
		return refused(Prefix+"SITE_SELF", c.SiteSelf, fmt.Errorf("want one of %sSITE: %s", Prefix, c.Site))
	}
	return nil
}

// Self returns which box of the site this one is, as SITE_SELF says; negative if it
// does not.
func (c *Config) Self() int {
	self, err := parseBox(c.SiteSelf)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(c.Site, func(one *url.URL) bool { return *one == *self })
}
