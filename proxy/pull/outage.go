package pull

import (
	"errors"
	"iter"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/freshness"
)

// Why a manifest would not be served in an outage.
var (
	ErrUnknown  = errors.New("the tag is not known")
	ErrNotStale = errors.New("HUBCAP_STALE_IF_ERROR does not allow it to be served while its registry fails")
	ErrNotHeld  = errors.New("its manifest is not held")
)

// Outcome is what a request for a manifest would be answered with in an outage.
type Outcome struct {
	Named  digest.Digest      // what is asked for; empty for a tag that is not known
	Served digest.Digest      // Named, or an earlier digest of the tag; empty with an error
	Tag    *freshness.Outlook // nil where a digest is asked for, or the tag is not known
}

// InOutage returns what a request for f, a manifest, would be answered with if
// every upstream failed from now on. The error is ErrUnknown, ErrNotStale,
// ErrNotHeld or ErrIncomplete. Nothing is asked, and nothing counts as used.
func (r Repository) InOutage(f Reference) (o Outcome, err error) {
	o.Named = f.Digest
	if f.Tag != "" {
		tag, known := r.puller.o.Tags.Outlook(r.question(), f.Tag)
		if !known {
			return o, ErrUnknown
		}
		o.Named, o.Tag = tag.Digest, &tag
		if !tag.Allowed {
			return o, ErrNotStale
		}
	}
	if !r.has(o.Named) {
		return o, ErrNotHeld
	}
	whole := func(d digest.Digest) bool { return r.Whole(d).Whole }
	served, ok := r.servedInTrouble(o.Named, whole, func() iter.Seq[digest.Digest] { return r.puller.o.Tags.EarlierDigests(r.question(), f.Tag) })
	if !ok {
		return o, ErrIncomplete
	}
	o.Served = served
	return o, nil
}

// Outlook returns what a tag would be answered with in an outage, held or not.
func (r Repository) Outlook(tag string) (o freshness.Outlook, known bool) {
	return r.puller.o.Tags.Outlook(r.question(), tag)
}

// Stores reports whether a part of a manifest is held as the manifest describes
// it, and may be shown in the repository. What is being filled is not.
func (r Repository) Stores(p content.Part) bool {
	return r.puller.o.Cache.Stored(r.want(p.Digest, p.Size))
}
