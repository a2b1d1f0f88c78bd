package admin

import (
	"context"
	"net/http"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/pins"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// list returns a page of the images that clients have pulled.
func (b *Box) list(_ context.Context, q *images.Query) (api.Images, error) {
	page, err := b.Images.List(*q)
	if err != nil {
		err = invalid("query", err.Error())
	}
	return page, err
}

// errUnknownImage says that no client has pulled an image.
var errUnknownImage = &api.Error{
	Type: "urn:hubcap:unknown-image", Status: http.StatusNotFound, Detail: "this image was not pulled here", Do: "pull it through this box, or warm it",
}

// imageBy answers with what get knows of an image.
func imageBy[T any](b *Box, get func(reference.Reference) (T, bool)) answerer[api.RefQuery, T] {
	return func(_ context.Context, q *api.RefQuery) (found T, err error) {
		ref, err := b.parse(q.Ref)
		if err != nil {
			return found, err
		}
		found, ok := get(ref)
		if !ok {
			err = errUnknownImage
		}
		return found, err
	}
}

// purge removes images, and what nothing else needs then.
func (b *Box) purge(_ context.Context, in *api.PurgeRequest) (gone api.Purged, err error) {
	if in.Ref != "" {
		if _, err := b.parse(in.Ref); err != nil {
			return gone, err
		}
	}
	if in.Digest != "" {
		if err := in.Digest.Validate(); err != nil {
			return gone, invalid("digest", err.Error())
		}
	}
	return b.Purge.Purge(*in)
}

// verify has files hashed by a job.
func (b *Box) verify(_ context.Context, in *api.VerifyRequest) (api.Job, error) {
	if in.Ref == "" {
		return b.Warm.StartVerify(nil)
	}
	ref, err := b.parse(in.Ref)
	if err != nil {
		return api.Job{}, err
	}
	return b.Warm.StartVerify(&ref)
}

// wouldEvict returns what would be evicted to make room, and evicts nothing.
func (b *Box) wouldEvict(_ context.Context, q *api.EvictionQuery) (api.Eviction, error) {
	return b.Evict.Evict(q.Bytes, true), nil
}

// evict evicts to make room.
func (b *Box) evict(_ context.Context, in *api.EvictRequest) (api.Eviction, error) {
	return b.Evict.Evict(in.Bytes, in.DryRun), nil
}

func (b *Box) pins() api.Pins { return api.Pins{Pins: b.Pins.List(), Summary: b.Pins.Overview()} }

// pin pins an image, or replaces its pin. What is missing is fetched behind it.
func (b *Box) pin(ctx context.Context, in *api.PinRequest) (cost api.PinCost, err error) {
	if _, err := b.parse(in.Ref); err != nil {
		return cost, err
	}
	if _, err := warm.ParsePlatforms(in.Platforms); err != nil {
		return cost, invalid("platforms", err.Error())
	}
	if !in.Until.IsZero() && !in.Until.After(b.Now()) {
		return cost, invalid("until", "this time is past")
	}
	return b.Pins.Pin(ctx, pins.Request{Ref: in.Ref, Platforms: in.Platforms, Until: in.Until, Note: in.Note, By: By(ctx)}, in.DryRun)
}

// unpin removes the pin of an image, and returns the pins that are left; in a dry
// run, the pin.
func (b *Box) unpin(_ context.Context, q *api.UnpinQuery) (api.Pins, error) {
	ref, err := b.parse(q.Ref)
	if err == nil && !q.DryRun {
		err = b.Pins.Unpin(q.Ref)
	}
	all := b.pins()
	if err != nil || !q.DryRun {
		return all, err
	}
	for _, one := range all.Pins {
		if one.Ref == ref.String() {
			all.Pins = []api.Pin{one}
			return all, nil
		}
	}
	return all, pins.ErrNotPinned
}

// maxNotReady is how many images outage names at most.
const maxNotReady = 1000

// outage returns which images could be pulled if all registries failed.
func (b *Box) outage(_ context.Context, q *api.OutageQuery) (api.Outage, error) {
	report := b.Outage.Report(images.Terms{Days: q.Days, Verified: q.Verified})
	report.Not = report.Not[:min(len(report.Not), maxNotReady)]
	return report, nil
}

// repair has what images lack fetched by a job.
func (b *Box) repair(_ context.Context, in *api.RepairRequest) (api.Repair, error) {
	return b.Outage.Repair(in.DryRun)
}

// setOffline takes the box offline, or ends that.
func (b *Box) setOffline(_ context.Context, in *api.OfflineRequest) (api.Offline, error) {
	if in.On {
		return b.Switch.On(time.Duration(in.ForS) * time.Second)
	}
	return b.Switch.Off()
}

// warm has images fetched: once, by a job, or again and again, by a schedule.
func (b *Box) warm(ctx context.Context, in *api.WarmRequest) (made api.Warmed, err error) {
	refs, err := b.parseAll(in.Refs)
	if err != nil {
		return made, err
	}
	request := warm.Request{Platforms: in.Platforms, KeepPulls: in.KeepPulls}
	switch {
	case in.DryRun:
		estimate, err := b.Warm.Estimate(ctx, refs, request)
		return api.Warmed{Estimate: &estimate}, err
	case in.EveryS > 0:
		schedule, err := b.Warm.AddSchedule(refs, in.Platforms, time.Duration(in.EveryS)*time.Second)
		return api.Warmed{Schedule: &schedule}, err
	}
	job, err := b.Warm.Start(jobs.Warm, refs, request)
	return api.Warmed{Job: &job}, err
}

func (b *Box) job(_ context.Context, q *api.ID) (api.Job, error) { return b.Jobs.Get(q.ID) }

// cancelJob ends a job. What it has done stays.
func (b *Box) cancelJob(_ context.Context, q *api.ID) (api.Job, error) {
	if err := b.Jobs.Cancel(q.ID); err != nil {
		return api.Job{}, err
	}
	return b.Jobs.Get(q.ID)
}

func (b *Box) schedules() api.Schedules { return api.Schedules{Schedules: b.Warm.Schedules()} }

// endSchedule ends a schedule. A job of it goes on.
func (b *Box) endSchedule(_ context.Context, q *api.ID) (api.Schedules, error) {
	err := b.Warm.DeleteSchedule(q.ID)
	return b.schedules(), err
}

// JobEvent returns what an event tells of a job: not the parts, of which there may
// be thousands.
func JobEvent(j api.Job) api.Job {
	j.Items, j.Errors = nil, nil
	return j
}
