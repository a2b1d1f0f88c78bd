package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// Visibility says for whom a registry's content is.
type Visibility string

var visibilities = map[Visibility]upstream.Visibility{
	"public": upstream.Public, "shared": upstream.Shared, "passthrough": upstream.Passthrough,
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Visibility) UnmarshalText(text []byte) error {
	return oneOf(v, text, "public", "shared", "passthrough")
}

// Globs stand for repositories: * for a part of a name, ** for any number of
// parts.
type Globs []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *Globs) UnmarshalText(text []byte) (err error) {
	*g, err = list(text, func(one string) (string, error) {
		if one == "" || !doublestar.ValidatePattern(one) {
			return "", errors.New("want globs of repositories separated by commas, such as library/*, owner/**")
		}
		return one, nil
	})
	return err
}

// String is what the operator wrote.
func (g Globs) String() string { return strings.Join(g, ",") }

// applyRules settles which repositories of a registry may be pulled, and for
// whom.
func (c *Config) applyRules(e *upstream.Entry, r registry, n int) error {
	prefix := registryPrefix(n)
	e.Rules = upstream.Rules{
		Visibility: visibilities[r.Visibility], SharedRepositories: r.Shared, Allow: r.Allow, Deny: r.Deny,
	}
	switch e.Visibility {
	case upstream.Public:
	case upstream.Shared:
		if err := c.checkShared(e, r, prefix); err != nil {
			return err
		}
	case upstream.Passthrough:
		if c.AuthListen == "" {
			return refused(prefix+"VISIBILITY", string(r.Visibility), fmt.Errorf("needs a port where clients log in: set %sAUTH_LISTEN", Prefix))
		}
		if e.Username != "" {
			return refused(prefix+"VISIBILITY", string(r.Visibility), errors.New("each client uses its own credentials; leave those of hubcap out"))
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
		return refused(prefix+"VISIBILITY", string(r.Visibility), fmt.Errorf("name the repositories in %sSHARED_REPOSITORIES", prefix))
	case !e.HasLogin():
		return refused(prefix+"VISIBILITY", string(r.Visibility), fmt.Errorf("needs credentials: %sUSERNAME and %sPASSWORD, %sTOKEN or %sCREDENTIALS", prefix, prefix, prefix, prefix))
	}
	c.Warnings = append(c.Warnings, fmt.Sprintf("%sSHARED_REPOSITORIES=%s: everybody whom %sALLOW_CLIENTS lets in can pull these of %s with hubcap's credentials",
		prefix, r.Shared, Prefix, e.Host))
	return nil
}
