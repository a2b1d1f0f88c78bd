package admin

import (
	"context"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// WarmImages has images fetched: once, by a job, or again and again, by a
// schedule.
func (b *Box) WarmImages(ctx context.Context, in *api.WarmRequest) (*api.Warmed, error) {
	refs := make([]reference.Reference, 0, len(in.Refs))
	for _, one := range in.Refs {
		ref, err := b.parse(one)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	request := warm.Request{Platforms: in.Platforms, KeepPulls: in.KeepPulls}
	switch {
	case in.DryRun:
		estimate, err := b.Warm.Estimate(ctx, refs, request)
		return &api.Warmed{Estimate: &estimate}, err
	case in.EveryS > 0:
		schedule, err := b.Warm.AddSchedule(refs, in.Platforms, time.Duration(in.EveryS)*time.Second)
		return &api.Warmed{Schedule: &schedule}, err
	}
	job, err := b.Warm.Start(jobs.Warm, refs, request)
	return &api.Warmed{Job: &job}, err
}

// GetJobs returns the long work of the box.
func (b *Box) GetJobs(context.Context, *struct{}) (*api.Jobs, error) {
	return &api.Jobs{Jobs: b.Jobs.All()}, nil
}

// GetJob returns a job.
func (b *Box) GetJob(_ context.Context, q *api.ID) (*api.Job, error) {
	job, err := b.Jobs.Get(q.ID)
	return &job, err
}

// CancelJob ends a job. What it has done stays.
func (b *Box) CancelJob(_ context.Context, q *api.ID) (*api.Job, error) {
	if err := b.Jobs.Cancel(q.ID); err != nil {
		return nil, err
	}
	job, err := b.Jobs.Get(q.ID)
	return &job, err
}

// GetSchedules returns what is fetched again and again.
func (b *Box) GetSchedules(context.Context, *struct{}) (*api.Schedules, error) {
	return &api.Schedules{Schedules: b.Warm.Schedules()}, nil
}

// DeleteSchedule ends a schedule. A job of it goes on.
func (b *Box) DeleteSchedule(_ context.Context, q *api.ID) (*api.Schedules, error) {
	if err := b.Warm.DeleteSchedule(q.ID); err != nil {
		return nil, err
	}
	return b.GetSchedules(context.Background(), nil)
}

// JobEvent returns what an event tells of a job: not the parts, of which there may
// be thousands.
func JobEvent(j api.Job) api.Job {
	j.Items, j.Errors = nil, nil
	return j
}
