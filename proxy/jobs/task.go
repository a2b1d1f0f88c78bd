package jobs

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxErrors is how many errors of a job are kept.
const maxErrors = 100

// Task is a job from inside: its Work tells it how far it is. Its methods may be
// called from any goroutine.
type Task struct {
	now    func() time.Time
	run    func(ctx context.Context, t *Task) error
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	job  Job
	live func() (bytes, rate int64)
}

// Progress sets how far the job is: objects and bytes.
func (t *Task) Progress(objects, objectsTotal int, done, total int64) {
	t.update(func(j *Job) { j.Objects, j.ObjectsTotal, j.Done, j.Total = objects, objectsTotal, done, total })
}

// Live sets what is called when the job is looked at: it returns the bytes that are
// not in Progress yet, and how many come in a second. Without it the rate is the
// average since the start.
func (t *Task) Live(live func() (bytes, rate int64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = live
}

// Item adds the result of a part of the job. That of one that failed is among the
// job's errors too.
func (t *Task) Item(i Item) {
	t.update(func(j *Job) {
		j.Items = append(j.Items, i)
		if !i.OK && len(j.Errors) < maxErrors {
			j.Errors = append(j.Errors, i.Name+": "+i.Result)
		}
	})
}

// Pulls adds to what the job has used of a registry's pull limit; left is what is
// left of it, negative where it states none.
func (t *Task) Pulls(upstream string, used, left int) {
	t.update(func(j *Job) {
		i := slices.IndexFunc(j.Pulls, func(p Pulls) bool { return p.Upstream == upstream })
		if i < 0 {
			i = len(j.Pulls)
			j.Pulls = append(j.Pulls, Pulls{Upstream: upstream})
		}
		j.Pulls[i].Used += used
		j.Pulls[i].Left = left
	})
}

// Error adds an error that ends neither the job nor an item.
func (t *Task) Error(text string) {
	t.update(func(j *Job) {
		if len(j.Errors) < maxErrors {
			j.Errors = append(j.Errors, text)
		}
	})
}

func (t *Task) update(change func(*Job)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.job)
}

func (t *Task) state() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.job.State
}

// snapshot returns the job as it is now.
func (t *Task) snapshot() Job {
	t.mu.Lock()
	j, live := t.job, t.live
	j.Errors, j.Items, j.Pulls = slices.Clone(j.Errors), slices.Clone(j.Items), slices.Clone(j.Pulls)
	t.mu.Unlock()
	if j.State != Running {
		return j
	}
	if live != nil {
		var more int64
		more, j.Rate = live()
		j.Done = min(j.Done+more, max(j.Total, j.Done))
	} else if took := t.now().Sub(j.Started); took > 0 {
		j.Rate = int64(float64(j.Done) / took.Seconds())
	}
	if j.Rate > 0 && j.Total > 0 {
		left := (j.Total - j.Done) / j.Rate
		j.Left = &left
	}
	return j
}
