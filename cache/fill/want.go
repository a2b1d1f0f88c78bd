package fill

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
)

// Want is what a request knows of the blob that it asks for.
type Want struct {
	Digest digest.Digest
	Source Source // see there: compared with ==
	Host   string // the registry that the source asks: connections and restricted content are counted by it
	Size   int64  // bytes, as the manifest says; negative if it does not. Only a hint for how to ask the source
	Off    int64  // of the first byte that the reader will read

	// Restricted says that the source gives the blob only to some clients: it is
	// stored as restricted content.
	Restricted bool
	// Granted says that Host would give the client the blob if it were
	// restricted. Without it, or if it came from another host, such a blob is
	// ErrRestricted. A source that is asked decides for itself.
	Granted bool
	// Repository is the one that a Restricted source asks in, all of which the
	// client may see. A fill that another request began there is joined
	// before it is known whether the blob exists.
	Repository string
	// Near knows places to ask before Source, of content that is not Restricted; nil
	// for none.
	Near Nearer
	// Peer says that another box of the site asks: it joins no fill that boxes may
	// feed. The error is ErrFed.
	Peer bool
	// Local says that an operator brings the bytes, and no registry: they do not
	// count for Options.Bandwidth, and nothing is kept of a fill that ends too
	// early. Host may be empty then.
	Local bool
	// Ours says that hubcap itself reads it, and shows it to no client yet.
	Ours bool
}

// ErrRestricted means that a blob is held but restricted: the request has not shown
// that the registry the blob came from would give it to the client.
var ErrRestricted = errors.New("the blob is restricted")

// Shows reports whether a blob of the class may be shown to the client. from
// reports whether the blob came from the wanted host.
func (w *Want) Shows(class blobs.Class, from func() bool) bool {
	return class == blobs.Public || w.Ours || w.Granted && from()
}

// in reports whether the source is the given repository, and that is restricted.
func (w *Want) in(repository string) bool { return repository != "" && w.Repository == repository }
