package pull

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/freshness"
)

// ErrUnheld says that what a client asks for only if it is held is not held, or may not
// be shown to it.
var ErrUnheld = errors.New("it is not held")

// What follows answers such clients (Identity.Held). Nothing is asked and nothing waited
// for, so that boxes can ask each other without a loop.

// heldManifest returns what a tag or digest was last known to name. It is no pull.
func (r Repository) heldManifest(f Reference) (freshness.Answer, error) {
	if f.Tag != "" {
		return r.orUnheld(r.puller.o.Tags.HeldTag(r.question(), f.Tag))
	}
	return r.orUnheld(r.puller.o.Tags.HeldDigest(r.question(), f.Digest))
}

// heldBlob opens a stored blob.
func (r Repository) heldBlob(d digest.Digest) (Blob, error) {
	b, held, err := r.puller.o.Cache.Held(r.want(d, -1))
	if err != nil || !held || !r.proved {
		if held {
			b.Close()
		}
		return Blob{}, ErrUnheld
	}
	return Blob{Blob: b, repository: r}, nil
}

func (r Repository) orUnheld(found freshness.Answer, held bool) (freshness.Answer, error) {
	if !held || !r.proved {
		return freshness.Answer{}, ErrUnheld
	}
	return found, nil
}
