package freshness

import (
	"errors"
	"fmt"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// ErrFrozen says that a tag is not moved, as an operator has frozen it to another
// digest.
var ErrFrozen = errors.New("this tag is frozen here to another digest")

// Import has a tag name a manifest that an operator has brought, at once and
// whatever its cool-down. The tag goes on following its registry: after its TTL
// the registry is asked, if it can be. Import returns once that is on disk. The
// error is ErrPassthrough, ErrFrozen or ErrNotSaved.
func (r *Resolver) Import(repo Repository, tag string, d upstream.Descriptor) (TagStatus, error) {
	known, err := r.ordered(repo, tag)
	if err != nil && !errors.Is(err, ErrUnknownTag) {
		return TagStatus{}, err
	}
	frozen := func(now index.Tag) bool { return r.frozen(now) && now.Digest != d.Digest }
	if frozen(known) {
		return TagStatus{}, fmt.Errorf("%w: %s", ErrFrozen, known.Digest)
	}
	name, to := repo.tag(tag), tagAt(d, r.o.Now(), index.ViaImport)
	r.failures.Forget(name.String()) // that its registry does not have the tag
	return r.carryOut(name, to, "a tag was imported", func(now index.Tag) index.Tag {
		if r.frozen(now) {
			return now
		}
		return now.Moved(to)
	})
}
