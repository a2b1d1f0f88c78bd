package access

import "hubcap/proxy/upstream"

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
	case !u.Allows(repository):
		return Denied
	case u.Visibility == upstream.Passthrough && login:
		return Own
	case u.Visibility == upstream.Passthrough:
		return Hidden
	case u.Shares(repository):
		return Shared
	default:
		return Open
	}
}
