package access

import (
	"slices"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/upstream"
)

// View is how a repository is shown.
type View uint8

// The views.
const (
	Open   View = iota // what anybody could pull from its registry
	Shared             // what the box's credentials open, to everybody who reaches the box
	Own                // what the client's own token opens, to that client
	Hidden             // not at this port
	Denied             // not at all: the operator does not allow it
)

var viewNames = [...]string{"open", "shared", "own", "hidden", "denied"}

func (v View) String() string { return viewNames[v] }

// Closed tells whether what is seen through the view is not for everybody.
func (v View) Closed() bool { return v == Shared || v == Own }

// ViewOf tells how a repository of u is shown at a port; login tells whether
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

// matches tells whether one of the globs, which are valid, stands for the
// repository: * for a part of a name between slashes, ** for any number of
// them.
func matches(globs []string, repository string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, repository) })
}
