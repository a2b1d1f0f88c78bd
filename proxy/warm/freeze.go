package warm

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
)

// Repository returns the repository of a reference, as an anonymous client of a
// mirror port sees it. The error is ErrUnknownRegistry or one of pull.
func (w *Warmer) Repository(ref reference.Reference) (pull.Repository, error) {
	up, ok := w.o.Upstreams.Find(ref.Registry)
	if !ok {
		return pull.Repository{}, fmt.Errorf("%s: %w", ref, ErrUnknownRegistry)
	}
	repository, err := w.o.Pull.Repository(up, ref.Repository, pull.Identity{})
	if err != nil {
		return pull.Repository{}, fmt.Errorf("%s: %w", ref, err)
	}
	repository.Warm = true
	return repository, nil
}

// Freeze has the tag of a reference answered with its digest, or else with o.Digest
// or what the tag means now; see freshness.Resolver.Freeze. Where that image is not
// held whole, a job fetches it, and the tag is frozen when that ends: the returned
// status is that of before, and the job is not nil.
func (w *Warmer) Freeze(ctx context.Context, ref reference.Reference, o freshness.FreezeOrder) (freshness.TagStatus, *jobs.Job, error) {
	repository, err := w.Repository(ref)
	if err != nil {
		return freshness.TagStatus{}, nil, err
	}
	_, before, err := repository.History(ref.Tag)
	if err != nil {
		return before, nil, err
	}
	o.Digest, o.Fetch = cmp.Or(ref.Digest, o.Digest, before.Digest), nil
	now, err := repository.Freeze(ctx, ref.Tag, o)
	if !errors.Is(err, freshness.ErrNotHeld) {
		return now, nil, err
	}
	ref.Digest = o.Digest
	job, err := w.o.Jobs.Start(jobs.Work{Kind: jobs.Freeze, What: ref.String(), Run: func(ctx context.Context, t *jobs.Task) error {
		if err := w.list(ctx, t, []reference.Reference{ref}, Request{}); err != nil {
			return err
		}
		_, err := repository.Freeze(ctx, ref.Tag, o)
		return err
	}})
	return before, &job, err
}
