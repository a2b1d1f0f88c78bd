// Package bundle carries images over an air gap: it writes what is held as a tar of
// an OCI image layout, and takes such a tar in. It knows tags, manifests and blobs;
// it knows no HTTP, and nothing that it reads names a file on disk.
//
// A bundle of chosen platforms is sparse: its manifests are as their registry gave
// them, and name manifests and blobs that are not in it, which the OCI image
// specification allows. The same content makes the same bytes: nothing in a bundle
// tells when or where it was made.
//
// Files: bundle.go (the whole), names.go (which tag an image of a bundle is), plan.go
// (what a bundle consists of), export.go (how it is written), import.go (how one is
// read), trees.go (which of its images are whole), accept.go (images become images of
// this box), dockersave.go (archives of docker save).
package bundle

import (
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/warm"
)

// Options is what a Bundler needs; every field is required.
type Options struct {
	Cache *cache.Cache
	Warm  *warm.Warmer // fetches what is missing for an export
}

// Bundler exports and imports images. Its methods may be called at any time from any
// goroutine.
type Bundler struct{ o Options }

// New returns a Bundler.
func New(o Options) *Bundler { return &Bundler{o} }

// The annotations of an image in index.json, beside ocispec.AnnotationRefName, which
// has the full name too.
const (
	nameAnnotation      = "io.containerd.image.name"
	platformsAnnotation = "io.hubcap.platforms" // of an index, with commas, or all: the others are not in the bundle
	sharedAnnotation    = "io.hubcap.shared"    // "true": the box that wrote it used its own credentials
)

// Why nothing is exported or imported. Errors of warm and pull beside these.
var (
	ErrShared    = errors.New("it was pulled with the credentials of this box, and is exported only with include_shared")
	ErrNoBundle  = errors.New("this is no OCI image layout as a tar, and no archive of docker save")
	ErrBroken    = errors.New("the bundle broke off or is damaged; nothing of it was kept")
	ErrNames     = errors.New("the name does not fit the bundle")
	ErrTooMany   = errors.New("the bundle has more files or images than hubcap takes at a time")
	ErrNotStable = errors.New("a file of the bundle is gone or has changed since the export began")
)

// The bounds of a bundle.
const (
	maxFiles   = 200_000  // blobs and manifests
	maxImages  = 10_000   // entries of index.json
	maxKept    = 64 << 20 // bytes of manifests in memory during an import; further ones are read from their files
	maxDepth   = 8        // indexes in indexes
	maxMissing = 20       // parts that are named of an image that is not whole
)

// Holdings returns the digests of all that is stored, sorted: what an export for this
// box may leave out.
func (b *Bundler) Holdings() []digest.Digest {
	all := []digest.Digest{}
	for o := range b.o.Cache.Objects() {
		if !o.Partial {
			all = append(all, o.Digest)
		}
	}
	slices.Sort(all)
	return all
}
