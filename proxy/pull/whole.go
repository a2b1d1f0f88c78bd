package pull

import (
	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
)

// Report says whether an image can be pulled while its upstream cannot be
// reached.
type Report struct {
	Whole   bool
	Missing []Missing // of an image that is not whole; of an index, of all its images
}

// Missing is a manifest or blob that an image lacks.
type Missing struct {
	Digest digest.Digest
	Size   int64 // bytes, as a manifest says; negative when it does not
	Why    Why
}

// Why says why something is missing.
type Why string

// The reasons.
const (
	NoManifest Why = "the manifest is not held"
	NoBlob     Why = "the blob is not held"
	NotShown   Why = "the blob is held, but this client may not see it" // restricted, from another repository
)

// Whole reports whether the image d can be pulled while its upstream cannot be
// reached. An index can where one of its images can, or where it names none:
// which one a client needs is known when it requests it.
func (r Repository) Whole(d digest.Digest) (report Report) {
	images, missing := r.puller.o.Cache.Images(d)
	for _, image := range images {
		lacks := len(report.Missing)
		for _, p := range image.Parts {
			if p.Is(content.RoleNeeded) && !r.has(p.Digest) {
				report.Missing = append(report.Missing, Missing{p.Digest, p.Size, r.why(p.Digest)})
			}
		}
		if len(report.Missing) == lacks {
			return Report{Whole: true}
		}
	}
	for _, p := range missing {
		report.Missing = append(report.Missing, Missing{p.Digest, p.Size, NoManifest})
	}
	return report
}

func (r Repository) why(d digest.Digest) Why {
	want := r.want(d, -1)
	want.Restricted, want.Granted = true, true // as its own upstream would show it
	if r.puller.o.Cache.Has(want) {
		return NotShown
	}
	return NoBlob
}
