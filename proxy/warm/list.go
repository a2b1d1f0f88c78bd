package warm

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
)

// imagesAtATime is how many images of a list are fetched at a time: most of the
// time of those that are held is one HEAD each.
const imagesAtATime = 4

// ErrNothing says that a list names nothing.
var ErrNothing = errors.New("no image is named")

// Estimate is what a list would fetch.
type Estimate struct {
	Items   []jobs.Item `json:"items"`   // in the order of the list; Detail is a Result
	Objects int         `json:"objects"` // manifests and blobs that would be fetched
	Bytes   int64       `json:"bytes"`
	Pulls   int         `json:"pulls"`             // of the registries' pull limits
	Unknown bool        `json:"unknown,omitempty"` // at least these: some manifests are not held
}

// Estimate returns what Start would fetch, as far as it can be told without a pull.
func (w *Warmer) Estimate(ctx context.Context, refs []reference.Reference, req Request) (e Estimate, err error) {
	if len(refs) == 0 {
		return e, ErrNothing
	}
	req.DryRun = true
	e.Items = make([]jobs.Item, len(refs))
	each(refs, func(i int, ref reference.Reference) {
		got, err := w.Image(ctx, ref, req, nil)
		e.Items[i] = item(ref, got, true, err)
	})
	for _, one := range e.Items {
		got := one.Detail.(Result)
		e.Objects, e.Bytes, e.Pulls, e.Unknown = e.Objects+got.Missing, e.Bytes+got.Fetched, e.Pulls+got.Pulls, e.Unknown || got.Unknown
	}
	return e, context.Cause(ctx)
}

// Start has images fetched by a job, which has an item for each with a Result as its
// Detail. kind is jobs.Warm, or what else needs them. The error is ErrNothing, one of
// the platforms, or of jobs.List.Start.
func (w *Warmer) Start(kind jobs.Kind, refs []reference.Reference, req Request) (jobs.Job, error) {
	if len(refs) == 0 {
		return jobs.Job{}, ErrNothing
	}
	if _, _, err := parsePlatforms(req.Platforms); err != nil {
		return jobs.Job{}, err
	}
	return w.o.Jobs.Start(jobs.Work{Kind: kind, What: reference.Names(refs), Run: func(ctx context.Context, t *jobs.Task) error {
		return w.list(ctx, t, refs, req)
	}})
}

// list is the work of Start.
func (w *Warmer) list(ctx context.Context, t *jobs.Task, refs []reference.Reference, req Request) error {
	all := &listProgress{of: make([]Progress, len(refs)), task: t}
	t.Live(func() (bytes, rate int64) { return w.Running(all.running()) })
	each(refs, func(i int, ref reference.Reference) {
		if ctx.Err() != nil {
			return
		}
		got, err := w.Image(ctx, ref, req, func(p Progress) { all.set(i, p) })
		if ctx.Err() != nil {
			return
		}
		t.Item(item(ref, got, req.DryRun, err))
		w.CountPulls(t, ref, got.Pulls)
	})
	return context.Cause(ctx)
}

// each calls do with each reference, a few at a time.
func each(refs []reference.Reference, do func(i int, ref reference.Reference)) {
	var all sync.WaitGroup
	turns := make(chan struct{}, imagesAtATime)
	for i, ref := range refs {
		turns <- struct{}{}
		all.Go(func() { defer func() { <-turns }(); do(i, ref) })
	}
	all.Wait()
}

// item is the result of one image in a job.
func item(ref reference.Reference, got Result, dry bool, err error) jobs.Item {
	one := jobs.Item{Name: ref.String(), OK: err == nil, Objects: got.Missing, Bytes: got.Fetched, Detail: got}
	switch {
	case err != nil:
		one.Result = "failed: " + strings.TrimPrefix(err.Error(), ref.String()+": ")
	case got.Missing == 0:
		one.Result, one.Objects, one.Bytes = "held already", got.Objects, got.Held
	case dry:
		one.Result = "would be fetched"
	default:
		one.Result = "fetched"
	}
	return one
}

// CountPulls notes the pulls that an image took, where its registry counts them.
func (w *Warmer) CountPulls(t *jobs.Task, ref reference.Reference, used int) {
	repository, err := w.Repository(ref)
	if err != nil {
		return
	}
	if limit := repository.Limit(); used > 0 || limit.Remaining >= 0 {
		t.Pulls(repository.Upstream.Host, used, limit.Remaining)
	}
}

// Running returns how many bytes of the wanted fills there are, and how many come in a second.
func (w *Warmer) Running(wanted map[digest.Digest]bool) (bytes, rate int64) {
	for _, f := range w.o.Cache.Fills() {
		if wanted[f.Digest] {
			bytes, rate = bytes+f.Present, rate+f.Rate
		}
	}
	return bytes, rate
}

// listProgress adds up the progress of the images of a job.
type listProgress struct {
	task *jobs.Task

	mu sync.Mutex
	of []Progress
}

func (l *listProgress) set(i int, p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of[i] = p
	var sum Progress
	for _, one := range l.of {
		sum.Objects, sum.ObjectsTotal = sum.Objects+one.Objects, sum.ObjectsTotal+one.ObjectsTotal
		sum.Bytes, sum.BytesTotal = sum.Bytes+one.Bytes, sum.BytesTotal+one.BytesTotal
	}
	l.task.Progress(sum.Objects, sum.ObjectsTotal, sum.Bytes, sum.BytesTotal)
}

// running returns the blobs that are being fetched.
func (l *listProgress) running() map[digest.Digest]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[digest.Digest]bool)
	for _, one := range l.of {
		for _, d := range one.Running {
			all[d] = true
		}
	}
	return all
}
