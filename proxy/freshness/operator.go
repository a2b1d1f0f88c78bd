package freshness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// Why an operator's order about a tag is refused; ErrUnknownTag is another reason.
var (
	ErrNotFrozen    = errors.New("this tag is not frozen")
	ErrNotCooling   = errors.New("no new digest of this tag waits for its cool-down")
	ErrNotInHistory = errors.New("this tag did not name such a digest, as far as its history goes")
	ErrAmbiguous    = errors.New("several digests in the history of this tag begin so")
	ErrNotHeld      = errors.New("this image is not held whole and cannot be fetched")
	ErrOrder        = errors.New("wrong digest, end or note")
	ErrPassthrough  = errors.New("what clients pull with their own accounts cannot be frozen")
	// ErrNotSaved says that an order is carried out, and lost when hubcap ends.
	ErrNotSaved = errors.New("this holds until hubcap ends, because the index cannot be written")
)

// maxNote is how many bytes a note, and who made it, may have: a tag with its
// history is one line of the snapshot.
const maxNote = 500

// FreezeOrder is how an operator freezes a tag.
type FreezeOrder struct {
	Digest   digest.Digest // empty for the present one
	Until    time.Time     // zero: until it is thawed
	Note, By string        // at most 500 bytes each
	// Fetch has an image fetched whole by its digest, for the platforms that are
	// pulled here, where it is not held whole. nil: then that is ErrNotHeld.
	Fetch func(ctx context.Context, d digest.Digest) error
}

func (o FreezeOrder) valid(now time.Time) error {
	switch {
	case o.Digest != "" && o.Digest.Validate() != nil:
		return fmt.Errorf("%w: %q is no digest", ErrOrder, o.Digest)
	case !o.Until.IsZero() && (!o.Until.After(now) || o.Until.Year() > 9999):
		return fmt.Errorf("%w: the freeze would end at %v", ErrOrder, o.Until)
	case max(len(o.Note), len(o.By)) > maxNote:
		return fmt.Errorf("%w: a note has at most %d bytes", ErrOrder, maxNote)
	}
	return nil
}

// Freeze has a tag answered with one digest until it is thawed. It returns once
// the image is held whole and the freeze is on disk.
func (r *Resolver) Freeze(ctx context.Context, repo Repository, tag string, o FreezeOrder) (TagStatus, error) {
	if err := o.valid(r.o.Now()); err != nil {
		return TagStatus{}, err
	}
	known, err := r.ordered(repo, tag)
	if err != nil {
		return TagStatus{}, err
	}
	d := cmp.Or(o.Digest, known.Digest)
	to, err := r.bring(ctx, repo, d, o.Fetch)
	if err != nil {
		return TagStatus{}, err
	}
	f := index.Frozen{Since: r.o.Now(), Until: o.Until, Note: o.Note, By: o.By}
	return r.carryOut(repo.tag(tag), known, "a tag was frozen", func(now index.Tag) index.Tag {
		return now.FrozenTo(tagAt(to, f.Since, index.ViaOperator), f)
	})
}

// RollbackTo returns the line in the history of a tag of which to is the digest or its
// beginning, with or without its algorithm. An empty to stands for the latest one that
// clients were given before the present one.
func (r *Resolver) RollbackTo(repo Repository, tag, to string) (Line, error) {
	lines, now, err := r.History(repo, tag)
	if err != nil {
		return Line{}, err
	}
	var found []Line
	older := false
	for _, one := range lines {
		switch {
		case to != "" && (strings.HasPrefix(one.Digest.String(), to) || strings.HasPrefix(one.Digest.Encoded(), to)):
			found = append(found, one)
		case to == "" && older && one.Served:
			return one, nil
		}
		older = older || one.Digest == now.Digest
	}
	switch len(found) {
	case 0:
		return Line{}, ErrNotInHistory
	case 1:
		return found[0], nil
	default:
		return Line{}, ErrAmbiguous
	}
}

// Thaw ends a freeze: the next answer asks the registry.
func (r *Resolver) Thaw(repo Repository, tag string) (TagStatus, error) {
	known, err := r.ordered(repo, tag)
	if err != nil {
		return TagStatus{}, err
	}
	if !r.frozen(known) {
		return TagStatus{}, ErrNotFrozen
	}
	return r.carryOut(repo.tag(tag), known, "a tag was thawed", func(now index.Tag) index.Tag {
		if now.Frozen != nil {
			over := *now.Frozen
			over.Thawed = true
			now.Frozen = &over
		}
		return now
	})
}

// Adopt ends the cool-down of a tag: it takes over the digest that waits.
func (r *Resolver) Adopt(ctx context.Context, repo Repository, tag string) (TagStatus, error) {
	known, err := r.ordered(repo, tag)
	if err != nil {
		return TagStatus{}, err
	}
	if r.stateOf(known) != Cooling {
		return TagStatus{}, ErrNotCooling
	}
	c := known.Candidate
	answer, err := r.fetch(ctx, repo, c.Digest, func() {})
	if err != nil {
		return TagStatus{}, fmt.Errorf("%w: %w", ErrNotHeld, err)
	}
	d := upstream.Descriptor{Digest: c.Digest, MediaType: answer.MediaType, Size: answer.Size}
	return r.carryOut(repo.tag(tag), known, "a tag was moved by an operator", func(now index.Tag) index.Tag {
		if now.Digest == c.Digest || r.frozen(now) { // meanwhile
			return now
		}
		return now.Moved(tagAt(d, c.Confirmed, index.ViaOperator))
	})
}

// ordered returns a tag that an operator gives an order about.
func (r *Resolver) ordered(repo Repository, tag string) (index.Tag, error) {
	if repo.Restricted != nil && repo.Restricted.Client != "" {
		return index.Tag{}, ErrPassthrough
	}
	known, ok := r.tags.get(repo.tag(tag))
	if !ok {
		return index.Tag{}, ErrUnknownTag
	}
	return known, nil
}

// bring returns the description of an image that is held whole, and has it
// fetched if it is not.
func (r *Resolver) bring(ctx context.Context, repo Repository, d digest.Digest, fetch func(context.Context, digest.Digest) error) (upstream.Descriptor, error) {
	if fetch != nil && !r.whole(repo, d) {
		if err := fetch(ctx, d); err != nil {
			return upstream.Descriptor{}, fmt.Errorf("%w: %w", ErrNotHeld, err)
		}
	}
	m, ok := r.manifest(repo, d)
	if !ok || !r.whole(repo, d) {
		return upstream.Descriptor{}, ErrNotHeld
	}
	return upstream.Descriptor{Digest: d, MediaType: m.MediaType, Size: int64(len(m.Body))}, nil
}

// carryOut changes a known tag as an operator has ordered, and returns once that
// is on disk.
func (r *Resolver) carryOut(name index.Name, known index.Tag, what string, change func(index.Tag) index.Tag) (TagStatus, error) {
	now, err := r.tags.commit(name, func(now index.Tag, ok bool) index.Tag {
		if !ok { // forgotten meanwhile
			now = known
		}
		return change(now)
	})
	r.o.Log.Info(what, "tag", name.String(), "digest", now.Digest, "state", r.stateOf(now))
	if err != nil {
		r.tags.failed(err)
		err = fmt.Errorf("%w: %w", ErrNotSaved, err)
	}
	return r.tagStatus(name, now), err
}
