package admin

import (
	"cmp"
	"context"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/freshness"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// parse reads the name of an image.
func (b *Box) parse(ref string) (reference.Reference, error) {
	r, err := reference.Parse(ref, b.Upstreams.Default().Host)
	if err != nil {
		return r, invalid("ref", err.Error())
	}
	return r, nil
}

// tag returns the repository and the name of a tag.
func (b *Box) tag(ref string) (repo pull.Repository, at reference.Reference, err error) {
	if at, err = b.parse(ref); err != nil {
		return repo, at, err
	}
	if at.Tag == "" {
		return repo, at, invalid("ref", "want a tag: a digest names one image for ever")
	}
	repo, err = b.Warm.Repository(at)
	return repo, at, err
}

// parseAll reads the names of images.
func (b *Box) parseAll(names []string) (refs []reference.Reference, err error) {
	for _, one := range names {
		ref, err := b.parse(one)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// tagHistory returns what a tag has named, and what it means now.
func (b *Box) tagHistory(_ context.Context, q *api.RefQuery) (h api.TagHistory, err error) {
	repo, at, err := b.tag(q.Ref)
	if err == nil {
		h.Lines, h.Tag, err = repo.History(at.Tag)
	}
	return h, err
}

// freeze freezes a tag: at once if the image is held whole, else by a job.
func (b *Box) freeze(ctx context.Context, in *api.FreezeRequest) (api.TagChange, error) {
	o := freshness.FreezeOrder{Until: in.Until, Note: in.Note}
	return b.freezeTo(ctx, in.Ref, o, in.DryRun, func(_ pull.Repository, at reference.Reference, now digest.Digest) (digest.Digest, error) {
		return cmp.Or(at.Digest, in.Digest, now), nil
	})
}

// rollback freezes a tag to a digest that it named before.
func (b *Box) rollback(ctx context.Context, in *api.RollbackRequest) (api.TagChange, error) {
	o := freshness.FreezeOrder{Until: in.Until, Note: in.Note}
	return b.freezeTo(ctx, in.Ref, o, in.DryRun, func(repo pull.Repository, at reference.Reference, _ digest.Digest) (digest.Digest, error) {
		line, err := repo.RollbackTo(at.Tag, in.To)
		return line.Digest, err
	})
}

// choice returns what a tag is frozen to; now is what it names.
type choice func(repo pull.Repository, at reference.Reference, now digest.Digest) (digest.Digest, error)

// freezeTo freezes a tag to what is chosen; in a dry run it says what is fetched for
// that.
func (b *Box) freezeTo(ctx context.Context, ref string, o freshness.FreezeOrder, dry bool, choose choice) (change api.TagChange, err error) {
	repo, at, err := b.tag(ref)
	if err != nil {
		return change, err
	}
	if _, change.Tag, err = repo.History(at.Tag); err != nil {
		return change, err
	}
	if at.Digest, err = choose(repo, at, change.Tag.Digest); err != nil {
		return change, err
	}
	if err := at.Digest.Validate(); err != nil {
		return change, invalid("digest", err.Error())
	}
	change.Digest = at.Digest
	if dry {
		got, err := b.Warm.Image(ctx, at, warm.Request{DryRun: true}, nil)
		change.Cost = &api.Cost{Objects: got.Missing, Bytes: got.Fetched, Held: got.Held, Pulls: got.Pulls, Unknown: got.Unknown}
		return change, err
	}
	o.By = By(ctx)
	if change.Tag, change.Job, err = b.Warm.Freeze(ctx, at, o); err == nil && change.Job == nil {
		b.Pins.Look() // it is not evicted any more
	}
	return change, err
}

// thaw ends a freeze. What the tag was frozen to is not pinned any more once it is
// answered.
func (b *Box) thaw(_ context.Context, in *api.TagRequest) (api.TagChange, error) {
	return b.end(in, freshness.Frozen, freshness.ErrNotFrozen, func(repo pull.Repository, tag string) (now api.Tag, err error) {
		if now, err = repo.Thaw(tag); err == nil {
			b.Pins.Look()
		}
		return now, err
	})
}

// adopt ends a cool-down: the tag moves now.
func (b *Box) adopt(ctx context.Context, in *api.TagRequest) (api.TagChange, error) {
	change, err := b.end(in, freshness.Cooling, freshness.ErrNotCooling, func(repo pull.Repository, tag string) (api.Tag, error) {
		return repo.Adopt(ctx, tag)
	})
	change.Digest = change.Tag.Digest
	if moved := change.Tag.Moved; in.DryRun && moved != nil {
		change.Digest = moved.Digest
	}
	return change, err
}

// end ends a state of a tag; in a dry run it says whether the tag is in it.
func (b *Box) end(in *api.TagRequest, state freshness.TagState, other error, do func(pull.Repository, string) (api.Tag, error)) (change api.TagChange, err error) {
	repo, at, err := b.tag(in.Ref)
	if err != nil {
		return change, err
	}
	if !in.DryRun {
		change.Tag, err = do(repo, at.Tag)
		return change, err
	}
	_, change.Tag, err = repo.History(at.Tag)
	if err == nil && change.Tag.State != state {
		err = other
	}
	return change, err
}

// invalid returns the error of a field of a request's body.
func invalid(field, message string) *api.Error {
	return &api.Error{
		Status: http.StatusUnprocessableEntity, Detail: message, Errors: []api.FieldErrors{{Location: field, Message: message}},
	}
}
