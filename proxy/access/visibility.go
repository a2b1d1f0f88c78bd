package access

import (
	"slices"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// View is how a repository is shown to a client.
type View uint8

// The views.
const (
	Open   View = iota // what an anonymous client can pull
	Shared             // what the box's credentials can pull, to every client of the box
	Own                // what the client's own token can pull, to that client
	Hidden             // not at a port without login
	Denied             // not at all, by the operator's configuration
)

var viewNames = [...]string{"open", "shared", "own", "hidden", "denied"}

func (v View) String() string { return viewNames[v] }

// Restricted reports whether content seen through the view is restricted.
func (v View) Restricted() bool { return v == Shared || v == Own }

// ViewOf returns how a repository of u is shown at a port; login is whether
// clients can log in there.
func ViewOf(u *upstream.Upstream, repository string, login bool) View {
	switch {
	case matches(u.Deny, repository), len(u.Allow) > 0 && !matches(u.Allow, repository):
		return Denied
	case u.Visibility == upstream.Passthrough && login:
		return Own
	case u.Visibility == upstream.Passthrough:
		return Hidden
	case u.Visibility == upstream.Shared && matches(u.SharedRepositories, repository):
		return Shared
	default:
		return Open
	}
}

// matches reports whether one of the globs, which are valid, matches the
// repository: * stands for any characters but a slash, ** for any number of
// parts between slashes.
func matches(globs []string, repository string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, repository) })
}
