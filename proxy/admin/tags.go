package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
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

// repository returns the repository of an image, as anonymous clients see it.
func (b *Box) repository(ref reference.Reference) (pull.Repository, error) {
	up, ok := b.Upstreams.Find(ref.Registry)
	if !ok {
		return pull.Repository{}, fmt.Errorf("%w: %s", warm.ErrUnknownRegistry, ref.Registry)
	}
	return b.Pull.Repository(up, ref.Repository, pull.Identity{})
}

// tag returns the repository and the name of a tag.
func (b *Box) tag(ref string) (repo pull.Repository, at reference.Reference, err error) {
	if at, err = b.parse(ref); err != nil {
		return repo, at, err
	}
	if at.Tag == "" {
		return repo, at, invalid("ref", "want a tag: a digest names one image for ever")
	}
	repo, err = b.repository(at)
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
	order := freshness.FreezeOrder{Digest: now.Digest, Until: in.Until, Note: in.Note, By: By(ctx)}
	if at.Digest != "" {
		order.Digest = at.Digest
	}
	if in.Digest != "" {
		order.Digest = digest.Digest(in.Digest)
	}
	return b.freeze(ctx, repo, at, order, in.DryRun)
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
	order := freshness.FreezeOrder{Digest: line.Digest, Until: in.Until, Note: in.Note, By: By(ctx)}
	return b.freeze(ctx, repo, at, order, in.DryRun)
}

func (b *Box) freeze(ctx context.Context, repo pull.Repository, at reference.Reference, o freshness.FreezeOrder, dry bool) (*api.TagChange, error) {
	_, now, err := repo.History(at.Tag)
	if err != nil {
		return nil, err
	}
	if err := o.Digest.Validate(); err != nil {
		return nil, invalid("digest", err.Error())
	}
	change := &api.TagChange{Tag: now, Digest: o.Digest.String()}
	image := reference.Reference{Registry: at.Registry, Repository: at.Repository, Digest: o.Digest}
	if dry {
		got, err := b.Warm.Image(ctx, image, warm.Request{DryRun: true}, nil)
		change.Cost = &api.Cost{Objects: got.Missing, Bytes: got.Fetched, Held: got.Held, Pulls: got.Pulls, Unknown: got.Unknown}
		return change, err
	}
	if repo.Whole(o.Digest).Whole {
		change.Tag, err = repo.Freeze(ctx, at.Tag, o)
		return change, err
	}
	job, err := b.Jobs.Start(jobs.Work{Kind: jobs.Freeze, What: at.String(), Run: func(ctx context.Context, t *jobs.Task) error {
		o.Fetch = func(ctx context.Context, _ digest.Digest) error {
			_, err := b.Warm.Image(ctx, image, warm.Request{}, func(p warm.Progress) { t.Progress(p.Objects, p.ObjectsTotal, p.Bytes, p.BytesTotal) })
			return err
		}
		_, err := repo.Freeze(ctx, at.Tag, o)
		return err
	}})
	change.Job = &job
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
