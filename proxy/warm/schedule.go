package warm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"hubcap/cache/index"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
)

// The bounds of schedules.
const (
	MinEvery     = 10 * time.Minute // between two runs
	maxSchedules = 1000
)

// lookEvery is how often the schedules are looked at.
const lookEvery = 15 * time.Second

// Errors of schedules.
var (
	ErrEvery             = fmt.Errorf("a schedule runs at most every %s", MinEvery)
	ErrTooManySchedules  = fmt.Errorf("there are %d schedules already", maxSchedules)
	ErrScheduleTooLong   = errors.New("the list is too long for one schedule: make several")
	ErrUnknownSchedule   = errors.New("there is no such schedule")
	errScheduledRunsOver = errors.New("the last run of this schedule has not ended")
)

// Schedule is a list of images that is fetched regularly.
type Schedule struct {
	index.Schedule
	Next time.Time `json:"next"`         // when it is due
	Job  string    `json:"job,omitzero"` // of its last run since the start
}

// Records keeps schedules.
type Records interface {
	PutSchedule(s index.Schedule) error
	DeleteSchedule(id string) error
	Schedules() iter.Seq2[index.Schedule, error]
}

// schedules are in memory, and as records.
type schedules struct {
	mu   sync.Mutex
	all  []index.Schedule
	jobs map[string]string // the last job of each
	kick chan struct{}     // a new one is due
}

// load reads the schedules.
func (s *schedules) load(records Records) error {
	s.jobs, s.kick = make(map[string]string), make(chan struct{}, 1)
	for one, err := range records.Schedules() {
		if err != nil {
			return err
		}
		s.all = append(s.all, one)
	}
	return nil
}

// AddSchedule has images fetched now and then regularly, until it is deleted; it
// survives a restart. The error is ErrNothing, ErrEvery, ErrTooManySchedules,
// ErrScheduleTooLong, one of the platforms, or of the index.
func (w *Warmer) AddSchedule(refs []reference.Reference, platforms []string, every time.Duration) (Schedule, error) {
	one := index.Schedule{Platforms: platforms, Every: int64(every / time.Second), Since: w.o.Now()}
	for _, ref := range refs {
		one.Refs = append(one.Refs, ref.String())
	}
	_, _, err := parsePlatforms(platforms)
	s := &w.schedules
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		return Schedule{}, err
	case len(refs) == 0:
		return Schedule{}, ErrNothing
	case every < MinEvery:
		return Schedule{}, ErrEvery
	case len(s.all) >= maxSchedules:
		return Schedule{}, ErrTooManySchedules
	}
	one.ID = s.nextID()
	if err := w.o.Records.PutSchedule(one); errors.Is(err, index.ErrTooLong) {
		return Schedule{}, ErrScheduleTooLong
	} else if err != nil {
		return Schedule{}, err
	}
	s.all = append(s.all, one)
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return Schedule{Schedule: one, Next: one.Since}, nil
}

// nextID returns a number that no schedule has. s.mu is held.
func (s *schedules) nextID() string {
	last := 0
	for _, one := range s.all {
		if n, err := strconv.Atoi(one.ID); err == nil {
			last = max(last, n)
		}
	}
	return strconv.Itoa(last + 1)
}

// Schedules returns the schedules, the oldest first.
func (w *Warmer) Schedules() []Schedule {
	s := &w.schedules
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Schedule, 0, len(s.all))
	for _, one := range s.all {
		all = append(all, Schedule{one, next(one, w.o.Now()), s.jobs[one.ID]})
	}
	slices.SortFunc(all, func(a, b Schedule) int { return a.Since.Compare(b.Since) })
	return all
}

// next returns when a schedule is due. The clock may have been set back since its
// last run.
func next(s index.Schedule, now time.Time) time.Time {
	every := time.Duration(s.Every) * time.Second
	switch {
	case s.Last.IsZero():
		return s.Since
	case s.Last.After(now):
		return now.Add(every)
	default:
		return s.Last.Add(every)
	}
}

// DeleteSchedule ends a schedule; a job of it goes on. The error is
// ErrUnknownSchedule, or of the index.
func (w *Warmer) DeleteSchedule(id string) error {
	s := &w.schedules
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.all, func(one index.Schedule) bool { return one.ID == id })
	if i < 0 {
		return ErrUnknownSchedule
	}
	if err := w.o.Records.DeleteSchedule(id); err != nil {
		return err
	}
	s.all = slices.Delete(s.all, i, i+1)
	delete(s.jobs, id)
	return nil
}

// Run runs the schedules when they are due, until ctx ends.
func (w *Warmer) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		w.runDue()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.schedules.kick:
		}
	}
}

// runDue starts a job for each schedule that is due.
func (w *Warmer) runDue() {
	s, now := &w.schedules, w.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.all {
		one := &s.all[i]
		if next(*one, now).After(now) {
			continue
		}
		id, err := w.runSchedule(*one)
		if err != nil {
			w.o.Log.Warn("a schedule could not be run; it is tried again when it is due next", "schedule", one.ID, "err", err)
		} else {
			s.jobs[one.ID] = id
		}
		one.Last = now
		if err := w.o.Records.PutSchedule(*one); err != nil {
			w.o.Log.Warn("the run of a schedule could not be noted; after a restart it runs again", "schedule", one.ID, "err", err)
		}
	}
}

// runSchedule starts the job of a schedule, unless the last one still runs.
// schedules.mu is held.
func (w *Warmer) runSchedule(one index.Schedule) (id string, err error) {
	if last, err := w.o.Jobs.Get(w.schedules.jobs[one.ID]); err == nil && !last.State.Over() {
		return "", errScheduledRunsOver
	}
	var refs []reference.Reference
	for _, name := range one.Refs {
		ref, err := reference.Parse(name, reference.DockerHub)
		if err != nil {
			return "", err
		}
		refs = append(refs, ref)
	}
	j, err := w.Start(jobs.Warm, refs, Request{Platforms: one.Platforms})
	return j.ID, err
}
