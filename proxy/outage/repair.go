package outage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

const (
	// keptPulls is the share of a pull limit that a repair leaves to clients.
	keptPulls = 0.2
	// maxSteps is how often more may be missing of an image than was known before
	// its manifests were fetched: an index, its images.
	maxSteps = 4
	// nightHour is the hour of the day, local time, in which a nightly repair begins.
	nightHour = 3
)

// Fetcher fetches images, as a warm.Warmer does.
type Fetcher interface {
	Image(ctx context.Context, ref reference.Reference, req warm.Request, progress func(warm.Progress)) (warm.Result, error)
	Running(wanted map[digest.Digest]bool) (bytes, rate int64)
	CountPulls(t *jobs.Task, ref reference.Reference, used int)
}

// Repair is what a repair fetches.
type Repair struct {
	Images  int       `json:"images" doc:"That are repaired"`
	Objects int       `json:"objects" doc:"Manifests and blobs that are fetched"`
	Bytes   int64     `json:"bytes"`
	Unknown bool      `json:"unknown,omitempty" doc:"At least so much: what a missing manifest names is not known"`
	Pulls   []Pulls   `json:"pulls" doc:"Of the registries' pull limits"`
	Left    []Left    `json:"left" doc:"Images that no repair makes ready"`
	Job     *jobs.Job `json:"job,omitempty" doc:"That repairs them; absent in a dry run, and where there is nothing to do"`
}

// Pulls is pulls of one registry.
type Pulls struct {
	Registry string `json:"registry"`
	Pulls    int    `json:"pulls"`
}

// Left is an image that cannot be repaired.
type Left struct {
	Ref string `json:"ref"`
	Why string `json:"why"`
}

// Repair has what images lack fetched by a job, by digest and behind the clients.
// What would take one of the last fifth of a registry's pull limit is not fetched.
// A dry run asks nobody, and fetches nothing. While a repair waits or runs, there is
// no second one: its job is returned.
func (r *Readiness) Repair(dryRun bool) (Repair, error) {
	r.mu.Lock()
	_, not := r.look(r.usual())
	r.mu.Unlock()
	plan, refs := r.plan(not)
	if dryRun || len(refs) == 0 {
		return plan, nil
	}
	job, running := r.repairing()
	if !running {
		p := &progress{objectsTotal: plan.Objects, total: plan.Bytes} // plan itself is changed below
		var err error
		job, err = r.o.Jobs.Start(jobs.Work{Kind: jobs.Repair, What: fmt.Sprintf("%d images with gaps", len(refs)), Run: func(ctx context.Context, t *jobs.Task) error {
			return r.repair(ctx, t, p, refs)
		}})
		if err != nil {
			return plan, err
		}
	}
	plan.Job = &job
	return plan, nil
}

// repairing returns the repair that waits or runs.
func (r *Readiness) repairing() (jobs.Job, bool) {
	all := r.o.Jobs.All()
	i := slices.IndexFunc(all, func(j jobs.Job) bool { return j.Kind == jobs.Repair && !j.State.Over() })
	if i < 0 {
		return jobs.Job{}, false
	}
	return all[i], true
}

// plan returns what the repair of these images fetches, and which of them are
// repaired.
func (r *Readiness) plan(rows []images.Image) (p Repair, refs []reference.Reference) {
	p = Repair{Pulls: []Pulls{}, Left: []Left{}}
	counted := make(map[digest.Digest]bool)
	for _, row := range rows {
		ref, targets, why := r.targets(row)
		if why != "" {
			p.Left = append(p.Left, Left{row.Ref, why})
		}
		if len(targets) == 0 {
			continue
		}
		refs = append(refs, ref)
		pulls := 0
		for _, g := range gapsOf(row) {
			if counted[g.Digest] || g.Why == images.TooLarge {
				continue
			}
			counted[g.Digest] = true
			p.Objects, p.Bytes = p.Objects+1, p.Bytes+max(g.Size, 0)
			if g.Part == images.ManifestPart {
				pulls, p.Unknown = pulls+1, true
			}
		}
		p.add(ref.Registry, pulls)
	}
	p.Images = len(refs)
	slices.SortFunc(p.Pulls, func(a, b Pulls) int { return cmp.Compare(a.Registry, b.Registry) })
	return p, refs
}

func (p *Repair) add(registry string, pulls int) {
	i := slices.IndexFunc(p.Pulls, func(one Pulls) bool { return one.Registry == registry })
	switch {
	case i >= 0:
		p.Pulls[i].Pulls += pulls
	case pulls > 0:
		p.Pulls = append(p.Pulls, Pulls{registry, pulls})
	}
}

// gapsOf returns what is missing of the platforms of an image that clients want. What
// is held and not verified is not missing.
func gapsOf(row images.Image) (all []images.Gap) {
	for _, p := range row.Platforms {
		if p.Wanted {
			all = append(all, missing(p)...)
		}
	}
	return all
}

func missing(p images.Platform) []images.Gap {
	return slices.DeleteFunc(slices.Clone(p.Gaps), func(g images.Gap) bool { return g.Why == images.NotVerified })
}

// target is a manifest that is fetched with what it names.
type target struct {
	ref       reference.Reference
	platforms []string // where it is an index
}

// targets returns what is to be fetched for an image, and why it will not be ready
// then; empty if it will.
func (r *Readiness) targets(row images.Image) (ref reference.Reference, all []target, why string) {
	ref, err := reference.Parse(row.Ref, reference.DockerHub)
	switch {
	case err != nil:
		return ref, nil, err.Error()
	case row.Outage == images.Refused:
		return ref, nil, row.Why
	case ref.Tag != "" && row.State == "": // it is not known what the tag names
		return ref, []target{{ref, r.wants(ref)}}, ""
	}
	for _, p := range row.Platforms {
		gaps := missing(p)
		switch {
		case !p.Wanted || len(gaps) == 0:
		case slices.ContainsFunc(gaps, func(g images.Gap) bool { return g.Why == images.TooLarge }):
			why = cmp.Or(p.Platform, "it") + " has a layer " + string(images.TooLarge)
		default:
			t := target{ref: reference.Reference{Registry: ref.Registry, Repository: ref.Repository, Digest: p.Digest}}
			if gaps[0].Part == images.ManifestPart {
				t.platforms = r.wants(ref)
			}
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		why = cmp.Or(why, row.Why)
	}
	return ref, all, why
}

// wants returns the platforms of an image that clients want, without the versions
// of their systems: windows(10.0.17763)/amd64 is fetched as windows/amd64.
func (r *Readiness) wants(ref reference.Reference) []string {
	all := r.o.Images.Wants(ref)
	for i, platform := range all {
		if system, rest, versioned := strings.Cut(platform, "("); versioned {
			_, rest, _ = strings.Cut(rest, ")")
			all[i] = system + rest
		}
	}
	return all
}

// repair is the work of a repair.
func (r *Readiness) repair(ctx context.Context, t *jobs.Task, p *progress, refs []reference.Reference) error {
	p.task = t
	t.Live(func() (bytes, rate int64) { return r.o.Fetcher.Running(p.running()) })
	for _, ref := range refs {
		item := r.mend(ctx, ref, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.Item(item)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(r.usual())
	r.report = Report{}
	return nil
}

// mend fetches what an image lacks.
func (r *Readiness) mend(ctx context.Context, ref reference.Reference, p *progress) jobs.Item {
	item := jobs.Item{Name: ref.String()}
	tried := make(map[reference.Reference]bool)
	for range maxSteps {
		row, known := r.o.Images.Image(ref)
		if !known || row.Outage == images.Ready {
			break
		}
		_, targets, _ := r.targets(row)
		targets = slices.DeleteFunc(targets, func(t target) bool { return tried[t.ref] })
		if len(targets) == 0 {
			break
		}
		for _, one := range targets {
			tried[one.ref] = true
			got, err := r.o.Fetcher.Image(ctx, one.ref, warm.Request{Platforms: one.platforms, KeepPulls: keptPulls}, p.update)
			p.add(got.Missing, got.Fetched)
			r.o.Fetcher.CountPulls(p.task, ref, got.Pulls)
			item.Objects, item.Bytes = item.Objects+got.Missing, item.Bytes+got.Fetched
			if err != nil {
				item.Result = "failed: " + err.Error()
				return item
			}
		}
	}
	row, _ := r.o.Images.Image(ref)
	gaps := gapsOf(row)
	switch {
	case row.Outage != images.Gaps && row.Outage != images.Refused:
		item.OK, item.Result = true, "repaired"
	case len(gaps) > 0:
		item.Result = fmt.Sprintf("still not ready: %s %s: %s", gaps[0].Part, gaps[0].Digest, gaps[0].Why)
	default:
		item.Result = "still not ready: " + row.Why
	}
	return item
}

// nightly begins the repair of the night.
func (r *Readiness) nightly() {
	now := r.o.Now().Local()
	if !r.o.Nightly || now.Hour() != nightHour || r.repaired == now.YearDay() {
		return
	}
	r.repaired = now.YearDay()
	plan, err := r.Repair(false)
	if err != nil {
		r.o.Log.Warn("the nightly repair cannot begin", "err", err)
		return
	}
	r.o.Log.Info("nightly repair", "images", plan.Images, "bytes", plan.Bytes, "not_repairable", len(plan.Left))
}
