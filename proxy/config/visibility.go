package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// Visibility says for whom a registry's content is.
type Visibility upstream.Visibility

var visibilities = map[string]upstream.Visibility{
	"public": upstream.Public, "shared": upstream.Shared, "passthrough": upstream.Passthrough,
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Visibility) UnmarshalText(text []byte) error {
	found, ok := visibilities[string(text)]
	if !ok {
		return errors.New("want public, shared or passthrough")
	}
	*v = Visibility(found)
	return nil
}

// String is the name that the operator uses.
func (v Visibility) String() string {
	for name, one := range visibilities {
		if one == upstream.Visibility(v) {
			return name
		}
	}
	return ""
}

// Globs stand for repositories: * for a part of a name, ** for any number of
// parts.
type Globs []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *Globs) UnmarshalText(text []byte) error {
	*g = nil
	for one := range strings.SplitSeq(string(text), ",") {
		if one = strings.TrimSpace(one); one == "" || !doublestar.ValidatePattern(one) {
			return errors.New("want globs of repositories separated by commas, such as library/*, owner/**")
		}
		*g = append(*g, one)
	}
	return nil
}

// String is what the operator wrote.
func (g Globs) String() string { return strings.Join(g, ",") }

// applyRules settles which repositories of a registry may be pulled, and for
// whom.
func (c *Config) applyRules(e *upstream.Entry, r registry, n int) error {
	prefix := registryPrefix(n)
	e.Rules = upstream.Rules{
		Visibility: upstream.Visibility(r.Visibility), SharedRepositories: r.Shared, Allow: r.Allow, Deny: r.Deny,
	}
	switch e.Visibility {
	case upstream.Public:
	case upstream.Shared:
		if err := c.checkShared(e, r, prefix); err != nil {
			return err
		}
	case upstream.Passthrough:
		if c.AuthListen == "" {
			return refused(prefix+"VISIBILITY", r.Visibility.String(), fmt.Errorf("needs a port where clients log in: set %sAUTH_LISTEN", Prefix))
		}
		if e.Username != "" {
			return refused(prefix+"VISIBILITY", r.Visibility.String(), errors.New("each client uses its own credentials; leave those of hubcap out"))
		}
	}
	if e.Visibility != upstream.Shared && len(r.Shared) > 0 {
		return refused(prefix+"SHARED_REPOSITORIES", r.Shared.String(), fmt.Errorf("needs %sVISIBILITY=shared", prefix))
	}
	return nil
}

// checkShared finds what is missing for sharing, and warns of what it means.
func (c *Config) checkShared(e *upstream.Entry, r registry, prefix string) error {
	switch {
	case len(r.Shared) == 0:
		return refused(prefix+"VISIBILITY", r.Visibility.String(), fmt.Errorf("name the repositories in %sSHARED_REPOSITORIES", prefix))
	case !e.HasLogin():
		return refused(prefix+"VISIBILITY", r.Visibility.String(), fmt.Errorf("needs credentials: %sUSERNAME and %sPASSWORD, %sTOKEN or %sCREDENTIALS", prefix, prefix, prefix, prefix))
	}
	c.Warnings = append(c.Warnings, fmt.Sprintf("%sSHARED_REPOSITORIES=%s: everybody whom %sALLOW_CLIENTS lets in can pull these of %s with hubcap's credentials",
		prefix, r.Shared, Prefix, e.Host))
	return nil
}
