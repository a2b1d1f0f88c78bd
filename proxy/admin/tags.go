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

// GetTagHistory returns what a tag has named, and what it means now.
func (b *Box) GetTagHistory(_ context.Context, q *api.RefQuery) (*api.TagHistory, error) {
	repo, at, err := b.tag(q.Ref)
	if err != nil {
		return nil, err
	}
	lines, now, err := repo.History(at.Tag)
	return &api.TagHistory{Tag: now, Lines: lines}, err
}

// GetKeptTags returns the tags that do not follow their registry.
func (b *Box) GetKeptTags(context.Context, *struct{}) (*api.KeptTags, error) {
	kept := &api.KeptTags{Tags: b.Tags.Kept()}
	if kept.Tags == nil {
		kept.Tags = []api.Tag{}
	}
	return kept, nil
}

// Freeze freezes a tag: at once if the image is held whole, else by a job.
func (b *Box) Freeze(ctx context.Context, in *api.FreezeRequest) (*api.TagChange, error) {
	repo, at, err := b.tag(in.Ref)
	if err != nil {
		return nil, err
	}
	_, now, err := repo.History(at.Tag)
	if err != nil {
		return nil, err
	}
	at.Digest = cmp.Or(at.Digest, digest.Digest(in.Digest), now.Digest)
	if err := at.Digest.Validate(); err != nil {
		return nil, invalid("digest", err.Error())
	}
	return b.freeze(ctx, at, now, freshness.FreezeOrder{Until: in.Until, Note: in.Note}, in.DryRun)
}

// Rollback freezes a tag to a digest that it named before.
func (b *Box) Rollback(ctx context.Context, in *api.RollbackRequest) (*api.TagChange, error) {
	repo, at, err := b.tag(in.Ref)
	if err != nil {
		return nil, err
	}
	line, err := repo.RollbackTo(at.Tag, in.To)
	if err != nil {
		return nil, err
	}
	_, now, err := repo.History(at.Tag)
	if err != nil {
		return nil, err
	}
	at.Digest = line.Digest
	return b.freeze(ctx, at, now, freshness.FreezeOrder{Until: in.Until, Note: in.Note}, in.DryRun)
}

// freeze freezes the tag of a reference to its digest; in a dry run it says what
// is fetched for that.
func (b *Box) freeze(ctx context.Context, at reference.Reference, now api.Tag, o freshness.FreezeOrder, dry bool) (_ *api.TagChange, err error) {
	change := &api.TagChange{Tag: now, Digest: at.Digest.String()}
	if dry {
		got, err := b.Warm.Image(ctx, at, warm.Request{DryRun: true}, nil)
		change.Cost = &api.Cost{Objects: got.Missing, Bytes: got.Fetched, Held: got.Held, Pulls: got.Pulls, Unknown: got.Unknown}
		return change, err
	}
	o.By = By(ctx)
	change.Tag, change.Job, err = b.Warm.Freeze(ctx, at, o)
	return change, err
}

// Thaw ends a freeze.
func (b *Box) Thaw(_ context.Context, in *api.TagRequest) (*api.TagChange, error) {
	repo, at, err := b.tag(in.Ref)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		_, now, err := repo.History(at.Tag)
		if err == nil && now.State != freshness.Frozen {
			err = freshness.ErrNotFrozen
		}
		return &api.TagChange{Tag: now}, err
	}
	now, err := repo.Thaw(at.Tag)
	return &api.TagChange{Tag: now}, err
}

// Adopt ends a cool-down: the tag moves now.
func (b *Box) Adopt(ctx context.Context, in *api.TagRequest) (*api.TagChange, error) {
	repo, at, err := b.tag(in.Ref)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		_, now, err := repo.History(at.Tag)
		if err == nil && now.State != freshness.Cooling {
			err = freshness.ErrNotCooling
		}
		change := &api.TagChange{Tag: now}
		if err == nil {
			change.Digest = now.Moved.Digest.String()
		}
		return change, err
	}
	now, err := repo.Adopt(ctx, at.Tag)
	return &api.TagChange{Tag: now, Digest: now.Digest.String()}, err
}

// invalid returns the error of a field of a request's body.
func invalid(field, message string) *api.Error {
	return &api.Error{
		Status: http.StatusUnprocessableEntity, Detail: message, Errors: []api.FieldErrors{{Location: field, Message: message}},
	}
}
